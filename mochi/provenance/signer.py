"""Signs videos with a person's own certificate."""

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from io import BufferedRandom, BytesIO, FileIO
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image

from ..errors import MochiError
from ..video.kinds import kind_of
from ..video.paths import temporary_beside
from .identity import read_identity
from .library import context, import_c2pa
from .manifest import manifest

VARIABLE = "MOCHI_SIGN"
"""The environment variable that names the file, where nothing else does."""

SIGNED = {"mp4": "video/mp4", "gif": "image/gif", "png": "image/png"}
"""The formats that can be signed, by the names that C2PA has for them."""


class Signer:
    """Signs videos with a certificate and its key, in one PEM file.

    It signs a small picture first, so that what is wrong with the file is said now: raises MochiError. Several threads
    may use it. It is not for other processes, since the key stays in this one.

    name: that of the certificate.
    """

    def __init__(self, file: Path):
        self._identity = read_identity(file)
        self.name = self._identity.name
        picture = BytesIO()
        Image.new("RGB", (1, 1)).save(picture, "PNG")
        try:
            self._sign(picture, BytesIO(), SIGNED["png"], {})
        except MochiError as error:
            raise MochiError(f"{file}: {error}") from error

    @classmethod
    def chosen(cls, file: Path | None = None) -> "Signer | None":
        """The one of a file or, where that is None, of MOCHI_SIGN; None where neither is set."""
        if file is not None:
            return cls(file)
        named = os.environ.get(VARIABLE)
        if not named:
            return None
        try:
            return cls(Path(named))
        except MochiError as error:
            raise type(error)(f"{error} (the environment variable {VARIABLE})") from error

    def check(self, format: str) -> None:
        """Raise MochiError where videos of this format cannot be signed. To be asked before one is made."""
        if format not in SIGNED:
            raise MochiError(
                f"{format} cannot hold content credentials, which are switched on (--sign or {VARIABLE}); "
                f"choose {', '.join(SIGNED)}"
            )

    def seal(self, settings: Mapping[str, Any]) -> Callable[[Path], None]:
        """A function that signs a whole video in its place, as made with these settings; see VideoWriter.

        Each frame of a folder is signed by itself. Where it fails, MochiError or OSError, the video is as it was.
        """

        def sign(video: Path) -> None:
            for file in sorted(video.iterdir()) if video.is_dir() else [video]:
                self._sign_file(file, settings)

        return sign

    def _sign_file(self, file: Path, settings: Mapping[str, Any]) -> None:
        format = kind_of(file)
        self.check(format or "this file")
        signed = temporary_beside(file)
        try:
            with file.open("rb") as source, _Target(FileIO(signed, "w+")) as target:
                try:
                    self._sign(source, target, SIGNED[format or ""], settings)
                except MochiError as error:
                    raise (target.error or error) from error
            os.replace(signed, file)
        finally:
            with suppress(OSError):
                signed.unlink()

    def _sign(self, source: BinaryIO, target: BinaryIO, kind: str, settings: Mapping[str, Any]) -> None:
        c2pa, who = import_c2pa(), self._identity
        try:
            # No authority is asked for the time: nothing leaves this machine.
            info = c2pa.C2paSignerInfo(who.algorithm.encode(), who.chain, who.key, None)
            with (
                context() as here,
                c2pa.Builder(manifest(settings), here) as builder,
                c2pa.Signer.from_info(info) as key,
            ):
                builder.sign(key, kind, source, target)
        except c2pa.C2paError as error:
            raise MochiError(f"cannot sign: {error}") from error


class _Target(BufferedRandom):
    """A file that remembers why it could not be written: the library says only that it could not."""

    error: OSError | None = None

    def write(self, data: Any) -> int:
        return self._remembering(super().write, data)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._remembering(super().seek, offset, whence)

    def flush(self) -> None:
        return self._remembering(super().flush)

    def _remembering(self, act: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return act(*arguments)
        except OSError as error:
            self.error = self.error or error
            raise
