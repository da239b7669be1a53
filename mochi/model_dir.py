"""What is in a model directory: which files are which network, and which Mochi it is. Reads no weights."""

from dataclasses import dataclass, replace
from pathlib import Path

from .checkpoint import Checkpoint
from .checkpoint.readers.sharded import is_later_shard
from .config import PREVIEW, TINY, TINY_WEIGHTS, LatentStats, ModelConfig
from .errors import CheckpointError
from .text import open_text_encoder


@dataclass(frozen=True)
class ModelDir:
    """The checkpoints of one model, opened. config: sizes, latent statistics and default settings."""

    path: Path
    config: ModelConfig
    dit: Checkpoint
    decoder: Checkpoint
    text_encoder: Checkpoint


def find_model(folder: str | Path | None = None) -> ModelDir:
    """The model in a directory; None is the built-in tiny one.

    It needs an AsymmDiT, an AsymmVAE decoder (`dit.safetensors` and `decoder.safetensors`, or any one other file that
    holds it, safetensors or GGUF; or a diffusers directory's `transformer` and `vae`) and T5: a folder `t5`, or
    `text_encoder` beside `tokenizer`, or any one file that holds it, with a tokenizer beside.

    Raises CheckpointError naming what is missing.
    """
    path = TINY_WEIGHTS if folder is None else Path(folder)
    if not path.is_dir():
        raise CheckpointError(f"{path}: there is no such model directory")
    found = _Folder(path)
    dit = found.checkpoint_of("dit")
    sizes = dit.config("dit")
    config = replace(TINY if sizes == TINY.dit else PREVIEW, dit=sizes)
    if (path / "latents.json").is_file():
        config = replace(config, latents=LatentStats.load(path / "latents.json"))
    return ModelDir(path, config, dit, found.checkpoint_of("decoder"), found.text_encoder())


class _Folder:
    """A folder whose checkpoints are opened once, as they are asked for."""

    def __init__(self, path: Path):
        self._path = path
        self._opened: dict[Path, Checkpoint] = {}

    def checkpoint_of(self, part: str) -> Checkpoint:
        """The checkpoint of the part's own name, or the only one that holds the part."""
        own = self._path / f"{part}.safetensors"
        if own.is_file():
            return self._open(own)
        found = [checkpoint for checkpoint in map(self._open, self._candidates()) if part in checkpoint.parts]
        if len(found) != 1:
            raise CheckpointError(
                f"{self._path}: there is no {own.name} in it, and {len(found)} of its other files hold such a network"
            )
        return found[0]

    def text_encoder(self) -> Checkpoint:
        for inner in (self._path / "t5", self._path / "text_encoder"):
            if inner.is_dir():
                return open_text_encoder(inner)
        try:
            return self.checkpoint_of("t5")
        except CheckpointError as error:
            raise CheckpointError(
                f"{self._path}: there is no T5 in it: a folder t5 or text_encoder, or a file ({error})"
            ) from error

    def _candidates(self) -> list[Path]:
        """What can hold a network: files, of a checkpoint in several only the first, and the folders of diffusers."""
        files = [file for kind in ("*.safetensors", "*.gguf") for file in sorted(self._path.glob(kind))]
        folders = [self._path / name for name in ("transformer", "vae") if (self._path / name).is_dir()]
        return [*(file for file in files if not is_later_shard(file.name)), *folders]

    def _open(self, path: Path) -> Checkpoint:
        if path not in self._opened:
            self._opened[path] = Checkpoint.open(path)
        return self._opened[path]
