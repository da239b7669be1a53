"""What is in a model directory: which files are which network, and which Mochi it is. Reads no weights."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from .checkpoint.load import contains, read_config
from .checkpoint.readers.sharded import is_later_shard
from .config import PREVIEW, TINY, TINY_WEIGHTS, LatentStats, ModelConfig
from .errors import CheckpointError


@dataclass(frozen=True)
class ModelDir:
    """The files of one model. config: sizes, latent statistics and default settings."""

    path: Path
    config: ModelConfig
    dit: Path
    decoder: Path
    text_encoder: Path


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
    dit = _file_with("dit", path)
    sizes = read_config(dit, "dit")
    config = replace(TINY if sizes == TINY.dit else PREVIEW, dit=sizes)
    if (path / "latents.json").is_file():
        config = replace(config, latents=LatentStats.load(path / "latents.json"))
    return ModelDir(path, config, dit, _file_with("decoder", path), _text_encoder(path))


def _file_with(part: str, folder: Path) -> Path:
    if (folder / f"{part}.safetensors").is_file():
        return folder / f"{part}.safetensors"
    found = [file for file in _weights(folder) if part in contains(file)]
    if len(found) != 1:
        raise CheckpointError(
            f"{folder}: there is no {part}.safetensors in it, and {len(found)} of its other files hold such a network"
        )
    return found[0]


def _weights(folder: Path) -> list[Path]:
    """What can hold a network: files, of a checkpoint in several only the first, and the folders of diffusers."""
    files = [file for kind in ("*.safetensors", "*.gguf") for file in sorted(folder.glob(kind))]
    folders = [folder / name for name in ("transformer", "vae") if (folder / name).is_dir()]
    return [*(file for file in files if not is_later_shard(file.name)), *folders]


def _text_encoder(folder: Path) -> Path:
    for inner in (folder / "t5", folder / "text_encoder"):
        if inner.is_dir():
            return inner
    try:
        return _file_with("t5", folder)
    except CheckpointError as error:
        raise CheckpointError(
            f"{folder}: there is no T5 in it: a folder t5 or text_encoder, or a file ({error})"
        ) from error
