"""The files of a model, in one directory or in several: those of each network, and its sizes. Reads no weights."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path

from .checkpoint import Checkpoint
from .checkpoint.readers.shards import weight_files
from .config import PREVIEW, TINY, TINY_WEIGHTS, LatentStats, ModelConfig
from .errors import CheckpointError
from .text import open_text_encoder
from .text.cached import ADVICE, cached_t5, cached_tokenizer
from .text.layout import find_tokenizer
from .variant import variant_of

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ModelFiles:
    """Files of a model that are not all in one folder. Each is a path of any kind that `Checkpoint.open` takes.

    Attributes:
        decoder: None where no frames are made.
        tokenizer: T5's, a folder or a file, where it does not lie beside the text encoder.
    """

    dit: Path
    text_encoder: Path
    encoder: Path
    decoder: Path | None = None
    tokenizer: Path | None = None


@dataclass(frozen=True)
class ModelDir:
    """The checkpoints of one model, opened.

    Attributes:
        path: the directory; of files in several, the one of the denoiser's.
        config: sizes, latent statistics and default settings.
        tokenizer: of the text encoder, where it does not lie beside that.
        encoder_file: the encoder's, where it is not looked for in the directory.
        t5: the text encoder's path, where it is not looked for in the directory.
    """

    path: Path
    config: ModelConfig
    dit: Checkpoint
    decoder: Checkpoint
    text_encoder: Checkpoint
    tokenizer: Path | None = None
    encoder_file: Checkpoint | None = None
    t5: Path | None = None

    @cached_property
    def encoder(self) -> Checkpoint:
        """The checkpoint of the AsymmVAE encoder, which only given pictures need.

        Raises CheckpointError where there is none, or not a whole one.
        """
        if self.encoder_file is not None:
            return self.encoder_file
        try:
            found = _checkpoint_of("encoder", self.path, Checkpoint.open)
        except CheckpointError as error:
            raise CheckpointError(
                f"{error}: pictures need an AsymmVAE encoder. `python -m mochi download --file encoder.safetensors "
                "--model-dir DIR` gets it; a VAE file that holds both will do too"
            ) from error
        found.check("encoder")
        return found

    @property
    def variant(self) -> tuple[str, str]:
        """The variant of the denoiser, and in words what says so: its metadata, or its name or the directory's."""
        return variant_of(self.path / self.dit.path.name, self.dit.metadata)


def find_model(folder: str | Path | None = None, t5: str | Path | None = None) -> ModelDir:
    """The model in a directory; None is the built-in tiny one.

    t5: the text encoder, a file or a folder, where it is not to be that of the directory.

    It needs an AsymmDiT, an AsymmVAE decoder (`dit.safetensors` and `decoder.safetensors`, or any one other file that
    holds it, safetensors or GGUF; or a diffusers directory's `transformer` and `vae`) and T5: a folder `t5`, or
    `text_encoder` beside `tokenizer`, or any one file that holds it, with a tokenizer beside. Given pictures need an
    AsymmVAE encoder too, `encoder.safetensors` or any one other file that holds it. A directory without T5, as Genmo's
    own script makes it, takes that of the hub's cache, and the log says which; the tokenizer can come from there too.

    Raises CheckpointError naming what is missing, or does not belong together.
    """
    path = TINY_WEIGHTS if folder is None else Path(folder)
    if not path.is_dir():
        raise CheckpointError(f"{path}: there is no such model directory")
    opened = cache(Checkpoint.open)  # a file that several parts are looked for in is opened once
    dit = _checkpoint_of("dit", path, opened)
    config = _config_of(dit, path)
    decoder = _checkpoint_of("decoder", path, opened)
    encoder = _text_encoder(path, t5, dit, opened)
    elsewhere = t5 is not None or not encoder.path.is_relative_to(path)
    return ModelDir(path, config, dit, decoder, encoder, _tokenizer(encoder), t5=encoder.path if elsewhere else None)


def model_of(files: ModelFiles) -> ModelDir:
    """The model that files make together. Statistics of latents, `latents.json`, may lie beside the denoiser's.

    Raises CheckpointError, naming the file, where one is not there, not whole, or of another model than the denoiser.
    """
    opened = cache(Checkpoint.open)
    dit, encoder, text_encoder = opened(files.dit), opened(files.encoder), open_text_encoder(files.text_encoder)
    decoder = encoder if files.decoder is None else opened(files.decoder)  # who asks for the decoder then, is told
    dit.check("dit")
    encoder.check("encoder")
    text_encoder.check("t5")
    if files.decoder is not None:
        decoder.check("decoder")
    check_together(dit, text_encoder)
    config = _config_of(dit, dit.path.parent)
    return ModelDir(dit.path.parent, config, dit, decoder, text_encoder, files.tokenizer, encoder)


def check_together(dit: Checkpoint, text_encoder: Checkpoint) -> None:
    """Raise CheckpointError where the denoiser reads other text features than the text encoder makes."""
    made, read = text_encoder.config("t5").d_model, dit.config("dit").text_width
    if made != read:
        raise CheckpointError(
            f"{text_encoder.path}: its text features are {made} wide, but {dit.path} reads those of width {read}: they "
            "do not belong together"
        )


def _config_of(dit: Checkpoint, folder: Path) -> ModelConfig:
    """The sizes of a model by its denoiser, and the statistics of latents that a folder may have."""
    sizes = dit.config("dit")
    config = replace(TINY if sizes == TINY.dit else PREVIEW, dit=sizes)
    statistics = folder / "latents.json"
    return replace(config, latents=LatentStats.load(statistics)) if statistics.is_file() else config


def _checkpoint_of(part: str, folder: Path, opened: Callable[[Path], Checkpoint]) -> Checkpoint:
    """The checkpoint of the part's own name, or the only one in the folder that holds the part."""
    own = folder / f"{part}.safetensors"
    if own.is_file():
        return opened(own)
    found = _holding(part, folder, opened)
    if len(found) != 1:
        raise CheckpointError(
            f"{folder}: there is no {own.name} in it, and {len(found)} of its other files hold such a network"
        )
    return found[0]


def _holding(part: str, folder: Path, opened: Callable[[Path], Checkpoint]) -> list[Checkpoint]:
    """Those in the folder that hold a part. Of a checkpoint in several files only the first is looked at."""
    folders = [folder / name for name in ("transformer", "vae") if (folder / name).is_dir()]  # of diffusers
    return [checkpoint for checkpoint in map(opened, [*weight_files(folder), *folders]) if part in checkpoint.parts]


def _text_encoder(
    folder: Path, named: str | Path | None, dit: Checkpoint, opened: Callable[[Path], Checkpoint]
) -> Checkpoint:
    """The one that is named, or that of the folder, or of the hub's cache."""

    def check(encoder: Checkpoint) -> None:
        encoder.check("t5")
        check_together(dit, encoder)

    if named is not None:
        encoder = open_text_encoder(named)
        check(encoder)
        return encoder
    # One that lies here belongs here: it is checked as it is loaded, since a check imports transformers, for seconds.
    for inner in (folder / "t5", folder / "text_encoder"):
        if inner.is_dir():
            return open_text_encoder(inner)
    if (folder / "t5.safetensors").is_file() or _holding("t5", folder, opened):
        return _checkpoint_of("t5", folder, opened)
    try:
        encoder, repository = cached_t5(check)
    except CheckpointError as error:
        raise CheckpointError(
            f"{folder}: there is no T5 in it, a folder t5 or text_encoder or a file; {error}. {ADVICE}"
        ) from error
    log.warning("T5 is that of %s in the hub's cache: %s", repository, encoder.path)
    return encoder


def _tokenizer(encoder: Checkpoint) -> Path | None:
    """That of the hub's cache where none lies beside the text encoder; None where one does, or there is none at all."""
    try:
        find_tokenizer(encoder.path)
    except CheckpointError:
        return cached_tokenizer()
    return None
