"""Reads credentials back: who signed a file, whether it is still as it was, and what is said of it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..video.kinds import kind_of
from .library import context, import_c2pa
from .manifest import SETTINGS
from .signer import SIGNED

UNKNOWN = "signingCredential.untrusted"
"""No list of trusted authorities leads to the certificate. There is none here, so this is no fault of the file."""

OF_CERTIFICATE = ("signingCredential.", "claimSignature.outsideValidity")
"""Beginnings of what is wrong with the certificate only: the file may be as it was."""

CHANGED = "changed after signing"
MEANINGS = {
    "assertion.bmffHash.mismatch": CHANGED,
    "assertion.dataHash.mismatch": CHANGED,
    "assertion.boxesHash.mismatch": CHANGED,
    "assertion.hashedURI.mismatch": "what the credentials say was changed after signing",
    "claimSignature.mismatch": "the signature does not belong to what the credentials say",
    "claimSignature.outsideValidity": "the certificate had expired, or was not valid yet",
    "signingCredential.expired": "the certificate has expired",
    "signingCredential.invalid": "the certificate is not for signing content",
    "signingCredential.revoked": "the certificate was revoked",
}
"""What the library finds wrong, in words."""


@dataclass(frozen=True)
class Credentials:
    """The content credentials of a file.

    Attributes:
        signed_by: the name of the certificate; empty where the credentials cannot be read.
        organisation: the one that the certificate names.
        matches: whether the file, and what is said of it, are as they were signed.
        problems: what is wrong, in words; where it matches, with the certificate.
        trusted: whether a list of trusted authorities vouches for the certificate.
        stamped: the time by an authority's word, which nothing signed here has.
        made: the time by the word of who signed.
        program: that made the claim, with its version.
        source_types: what kind of media it is, in IPTC's words, such as trainedAlgorithmicMedia.
        settings: what the credentials say of how it was made here.
    """

    signed_by: str = ""
    organisation: str = ""
    matches: bool = False
    problems: tuple[str, ...] = ()
    trusted: bool = False
    stamped: str | None = None
    made: str | None = None
    program: str = ""
    source_types: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)


def read_credentials(path: Path) -> Credentials | None:
    """The credentials of a video; None where it has none. Nothing is fetched: those that lie elsewhere are a problem.

    Of a folder, those of its first frame, with the problems of all. Raises NotInstalled where the library is not there,
    and OSError where the file cannot be read.
    """
    import_c2pa()
    if not path.is_dir():
        return _of_file(path)
    files = sorted(path.glob("*.png"))
    found = {file.name: _of_file(file) for file in files}
    if not any(found.values()):
        return None
    problems = []
    for name, one in found.items():
        problems += [f"{name}: {problem}" for problem in (["no credentials"] if one is None else one.problems)]
    matches = all(one is not None and one.matches for one in found.values())
    return replace(next(filter(None, found.values())), matches=matches, problems=tuple(problems))


def _of_file(path: Path) -> Credentials | None:
    kind = SIGNED.get(kind_of(path) or "")
    if kind is None:
        return None
    c2pa = import_c2pa()
    try:
        with path.open("rb") as file, context() as here, c2pa.Reader(kind, file, context=here) as reader:
            store = json.loads(reader.json())
    except c2pa.C2paError.ManifestNotFound:
        return None
    except c2pa.C2paError as error:
        return Credentials(problems=(f"the credentials cannot be read ({error})",))
    try:
        return _understood(store)
    except (LookupError, TypeError, AttributeError) as error:
        return Credentials(problems=(f"the credentials have an unknown form ({error!r})",))


def _understood(store: Mapping[str, Any]) -> Credentials:
    active = store["manifests"][store["active_manifest"]]
    failures = store.get("validation_results", {}).get("activeManifest", {}).get("failure", [])
    signature = active.get("signature_info", {})
    assertions = {item["label"]: item.get("data", {}) for item in active.get("assertions", [])}
    actions = [
        action
        for label, data in assertions.items()
        if label.startswith("c2pa.actions")
        for action in data.get("actions", [])
    ]
    settings = assertions.get(SETTINGS)
    return Credentials(
        signature.get("common_name") or signature.get("issuer") or "an unnamed certificate",
        signature.get("issuer") or "",
        all(failure["code"].startswith(OF_CERTIFICATE) for failure in failures),
        _problems(failures),
        store.get("validation_state") == "Trusted",
        signature.get("time"),
        next((action["when"] for action in actions if "when" in action), None),
        _program(active.get("claim_generator_info") or []),
        tuple(dict.fromkeys(_last(action["digitalSourceType"]) for action in actions if "digitalSourceType" in action)),
        settings if isinstance(settings, Mapping) else {},
    )


def _problems(failures: Sequence[Mapping[str, str]]) -> tuple[str, ...]:
    codes = {failure["code"]: failure.get("explanation", "") for failure in failures}
    codes.pop(UNKNOWN, None)
    said = (MEANINGS.get(code) or f"{explanation} ({code})".strip() for code, explanation in codes.items())
    return tuple(dict.fromkeys(said))


def _program(generators: Sequence[Mapping[str, Any]]) -> str:
    return (
        " ".join(str(generators[0][name]) for name in ("name", "version") if name in generators[0])
        if generators
        else ""
    )


def _last(address: str) -> str:
    return address.rpartition("/")[2]
