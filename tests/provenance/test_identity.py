"""A PEM file is checked as a whole before anything is made, and each thing that is wrong with it is said."""

import importlib
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest

pytest.importorskip("c2pa")

from cryptography.hazmat.primitives.asymmetric import dsa, ec, rsa
from cryptography.hazmat.primitives.serialization import PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID

from mochi.errors import MochiError
from mochi.provenance import NotInstalled, Signer, library
from mochi.provenance.identity import read_identity
from tests.certificates import DOCUMENTS, KEYS, Party, identity, party

ROOT = party("Root", authority=True)
JO = party("Jo", ROOT)


def written(folder: Path, *parts: bytes) -> Path:
    path = folder / "me.pem"
    path.write_bytes(b"".join(parts))
    return path


@pytest.mark.parametrize("algorithm", KEYS)
def test_the_key_decides_the_algorithm(algorithm: str, tmp_path: Path) -> None:
    who = party("Jo", ROOT, KEYS[algorithm]())
    found = read_identity(written(tmp_path, who.key_pem(), who.pem, ROOT.pem))
    assert (found.algorithm, found.name) == (algorithm, "Jo")
    assert "PRIVATE" not in repr(found)
    Signer(tmp_path / "me.pem")  # which signs a picture


def test_any_order_and_form(tmp_path: Path) -> None:
    """A chain of three is put in its order; a key in the older forms, as openssl writes them, is read too."""
    middle = party("Middle", ROOT, authority=True)
    for who in (party("Jo", middle), party("Jo", middle, KEYS["ps256"]())):
        old = who.key_pem(PrivateFormat.TraditionalOpenSSL)
        path = written(tmp_path, b"Bag Attributes\r\n", ROOT.pem, old, party("Other", ROOT).pem, middle.pem, who.pem)
        assert read_identity(path).chain == who.pem + middle.pem + ROOT.pem
        Signer(path)


def test_a_renewed_certificate_goes_before_the_expired_one(tmp_path: Path) -> None:
    old = party("Jo", ROOT, days=(-30, -1))
    new = party("Jo", ROOT, old.key)
    Signer(written(tmp_path, old.key_pem(), old.pem, new.pem, ROOT.pem))


@pytest.mark.parametrize(
    "who", [party("Alone"), party("Archivist", ROOT, purpose=DOCUMENTS)], ids=["self", "documents"]
)
def test_others_that_can_sign(who: Party, tmp_path: Path) -> None:
    Signer(written(tmp_path, who.key_pem(), who.pem, ROOT.pem))


def without_signature() -> Party:
    return party("Jo", ROOT, signs=False)


WRONG = {
    "nothing": (b"", "no private key is in it"),
    "other": (b"\x00\x01 a video", "no private key is in it"),
    "certificates only": (JO.pem + ROOT.pem, "no private key is in it"),
    "key only": (JO.key_pem(), "no certificate is in it"),
    "two keys": (JO.key_pem() + ROOT.key_pem() + JO.pem, "2 private keys"),
    "other key": (ROOT.key_pem() + JO.pem, "belongs to none of its certificates"),
    "no chain": (JO.key_pem() + JO.pem, "the certificate of who issued the one of 'Jo' is not in it.*CN=Root"),
    "other chain": (JO.key_pem() + JO.pem + party("Root", authority=True).pem, "who issued the one of 'Jo'"),
    "encrypted": (JO.key_pem(password=b"x") + JO.pem + ROOT.pem, "is encrypted.*openssl pkey"),
    "damaged key": (JO.key_pem().replace(b"MI", b"IM", 1) + JO.pem + ROOT.pem, "private key cannot be read"),
    "damaged": (JO.key_pem() + JO.pem.replace(b"\nMI", b"\nIM", 1) + ROOT.pem, "certificate in it cannot be read"),
}
BAD = {
    "expired": (lambda: party("Jo", ROOT, days=(-9, -1)), "'Jo' has expired, on 20"),
    "not yet": (lambda: party("Jo", ROOT, days=(1, 9)), "'Jo' begins on 20"),
    "server": (lambda: party("Jo", ROOT, purpose=ExtendedKeyUsageOID.SERVER_AUTH), "not for signing content.*email"),
    "no purpose": (lambda: party("Jo", ROOT, purpose=None), "not for signing content"),
    "no signatures": (without_signature, "not for digital signatures"),
    "authority": (lambda: party("Jo", ROOT, authority=True), "is one of an authority"),
    "curve": (lambda: party("Jo", ROOT, ec.generate_private_key(ec.SECP256K1())), "C2PA has no signature"),
    "short": (lambda: party("Jo", ROOT, rsa.generate_private_key(65537, 1024)), "2048 bits or more"),
    "dsa": (lambda: party("Jo", ROOT, dsa.generate_private_key(1024)), "C2PA has no signature"),
}


@pytest.mark.parametrize("name", WRONG)
def test_bad_files(name: str, tmp_path: Path) -> None:
    data, message = WRONG[name]
    with pytest.raises(MochiError, match=rf"me\.pem: .*{message}"):
        Signer(written(tmp_path, data))


@pytest.mark.parametrize("name", BAD)
def test_bad_certificates(name: str, tmp_path: Path) -> None:
    make, message = BAD[name]
    who = make()
    with pytest.raises(MochiError, match=rf"me\.pem: .*{message}"):
        Signer(written(tmp_path, who.key_pem(), who.pem, ROOT.pem))


def test_an_authority_that_has_expired(tmp_path: Path) -> None:
    old = party("Old Root", authority=True, days=(-9, -1))
    who = party("Jo", old)
    with pytest.raises(MochiError, match="'Old Root' has expired"):
        Signer(written(tmp_path, who.key_pem(), who.pem, old.pem))


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(MochiError, match=r"nope\.pem: cannot be read \(No such file"):
        Signer(tmp_path / "nope.pem")
    with pytest.raises(MochiError, match="cannot be read"):
        Signer(tmp_path)


def test_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MOCHI_SIGN", raising=False)
    assert Signer.chosen() is None
    monkeypatch.setenv("MOCHI_SIGN", "")
    assert Signer.chosen() is None
    monkeypatch.setenv("MOCHI_SIGN", str(identity(tmp_path, "Environment")))
    signer = Signer.chosen()
    assert signer is not None and signer.name == "Environment"
    (tmp_path / "other").mkdir()
    option = Signer.chosen(identity(tmp_path / "other", "Option"))
    assert option is not None and option.name == "Option"
    monkeypatch.setenv("MOCHI_SIGN", str(tmp_path / "nope.pem"))
    with pytest.raises(MochiError, match=r"nope\.pem: cannot be read.*MOCHI_SIGN"):
        Signer.chosen()


def test_without_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, c2pa = identity(tmp_path), library.import_c2pa()
    with monkeypatch.context() as patch:
        patch.setattr(c2pa, "__version__", "0.30.0")
        with pytest.raises(NotInstalled, match=r"newer c2pa-python than 0\.30\.0: pip install"):
            Signer(path)
    with monkeypatch.context() as patch:
        patch.setattr("cryptography.__version__", "41.0.7")
        with pytest.raises(NotInstalled, match=r"newer cryptography than 41\.0\.7: pip install"):
            Signer(path)
    for error in (RuntimeError("no native library"), ValueError("unknown platform"), OSError("not for this system")):
        with monkeypatch.context() as patch:
            patch.setattr(importlib, "import_module", Mock(side_effect=error))
            with pytest.raises(NotInstalled, match=f"cannot be used here \\({error}"):
                Signer(path)
    monkeypatch.setitem(sys.modules, "c2pa", None)
    with pytest.raises(NotInstalled, match=r"need c2pa-python.*pip install 'c2pa-python"):
        Signer(path)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl here")
def test_the_command_of_the_documentation(tmp_path: Path) -> None:
    text = Path("docs/credentials.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"^openssl req (?:.*\\\n)*.*$", text, re.MULTILINE)
    subprocess.run(shlex.split(command.replace("\\\n", " ")), cwd=tmp_path, check=True, capture_output=True)
    assert Signer(tmp_path / "me.pem").name == "My Name"
