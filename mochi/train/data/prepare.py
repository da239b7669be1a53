"""From a folder of clips and captions to what is trained on. Everything is computed once, and found again later."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from fractions import Fraction
from pathlib import Path

import torch

from ...errors import MochiError
from ...geometry import latent_shape
from ...model_dir import ModelDir
from ...text.layout import find_tokenizer
from ...text.tokenizer import tokenizer_file
from ...video.limits import exact_fps
from .buckets import bucket_of, window_starts
from .cache import Cache, Entry, digest
from .dataset import Example, TrainingSet
from .encoding import Window, encode_captions, encode_windows
from .fingerprint import fingerprint
from .items import EXPECTED, Item, Skipped, Unusable, find_items, reasons
from .settings import DataSettings

Report = Callable[[str, int, int], None]
"""Hears what is done, how much of it, and of how much. It may raise to cancel."""


def prepare(
    data: Path,
    settings: DataSettings,
    model: ModelDir,
    *,
    device: torch.device | str,
    dtype: torch.dtype,
    cache: Path | None = None,
    share: tuple[int, int] = (0, 1),
    barrier: Callable[[], None] | None = None,
    report: Report | None = None,
    prompts: Sequence[str] = (),
) -> TrainingSet:
    """Encode clips and captions that the cache does not have yet. What was made stays, however this ends.

    Args:
        data: a folder, or a .csv or .jsonl file; see `find_items`.
        device, dtype: of the encoders, of which one at a time is loaded, where something is missing.
        cache: a folder; by default one beside the data.
        share: the rank of this process, and how many there are. Each makes a part; all get the same result.
        barrier: waits for all ranks. It is called three times.
        prompts: texts whose features are wanted too.

    Raises MochiError where nothing can be trained on, or the cache cannot be written to; CheckpointError on encoders.
    """
    device, (rank, ranks) = torch.device(device), share
    wait, tell = barrier or (lambda: None), report or (lambda what, done, total: None)
    items, skipped = find_items(data)
    store = Cache.beside(data) if cache is None else Cache(cache)
    keys = _Keys(store, model, dtype)

    own = items[rank::ranks]
    for done, item in enumerate(own):
        tell("reading clips", done, len(own))
        with suppress(Unusable):
            store.source(item)
    wait()
    windows = _windows(items, settings, keys, skipped)
    texts = {text: keys.text(text) for text in (*(window.item.caption for window in windows), *prompts)}
    clips = {window.latents.path: window for window in windows}.values()
    missing = [window for window in clips if not window.latents.exists]
    unknown = [(text, entry) for text, entry in texts.items() if not entry.exists]
    wait()  # all ranks have seen the same, before any makes more of it
    own, unread = missing[rank::ranks], dict(unknown[rank::ranks])
    encode_windows(own, model, keys.fps, device, dtype, lambda *count: tell("encoding clips", *count))
    encode_captions(unread, model, device, dtype, lambda *count: tell("encoding captions", *count))
    wait()
    return _training_set(data, windows, skipped, keys.fps, {prompt: texts[prompt].path for prompt in prompts})


class _Keys:
    """What the files of the cache depend on."""

    def __init__(self, store: Cache, model: ModelDir, dtype: torch.dtype):
        self.store, self.fps = store, exact_fps(model.config.defaults.fps)
        precision = str(dtype).removeprefix("torch.")
        tokenizer = tokenizer_file(model.tokenizer or find_tokenizer(model.text_encoder.path))
        self._latents = {"encoder": fingerprint(model.encoder, "encoder"), "dtype": precision, "fps": str(self.fps)}
        self._text = {
            "t5": fingerprint(model.text_encoder, "t5", tokenizer),
            "dtype": precision,
            "length": str(model.config.dit.text_length),
        }

    def latents(self, sha256: str, width: int, height: int, frames: range) -> Entry:
        place = {"width": str(width), "height": str(height), "first": str(frames.start), "frames": str(len(frames))}
        return self.store.entry("latents", file=sha256, **place, **self._latents)

    def text(self, caption: str) -> Entry:
        return self.store.entry("text", caption=hashlib.sha256(caption.encode()).hexdigest(), **self._text)


def _windows(items: list[Item], settings: DataSettings, keys: _Keys, skipped: list[Skipped]) -> list[Window]:
    """The windows of all items. Items that have none are added to what is skipped."""
    windows = []
    for item in items:
        try:
            source = keys.store.source(item)
            bucket = bucket_of(source.footage, item.is_image, keys.fps, settings)
        except Unusable as error:
            skipped.append((item.name, str(error)))
            continue
        seed = f"{settings.seed} {source.sha256}"
        text = keys.text(item.caption)
        for first in window_starts(source.footage.frames(keys.fps), bucket.frames, settings.windows, seed):
            frames = range(first, first + bucket.frames)
            latents = keys.latents(source.sha256, *bucket.size, frames)
            windows.append(Window(item, source.footage, bucket, first, latents, text))
    return windows


def _training_set(
    data: Path, windows: list[Window], skipped: list[Skipped], fps: Fraction, prompts: dict[str, Path]
) -> TrainingSet:
    examples = []
    for window in windows:
        if not window.latents.exists:
            skipped.append((window.item.name, window.latents.reason or "it could not be encoded"))
            continue
        item, bucket = window.item, window.bucket
        name = item.name if item.is_image else f"{item.name} from {float(window.first / fps):.1f} s"
        frames, rows, columns = latent_shape(*bucket.size, bucket.frames)[2:]
        paths = window.latents.path, window.text.path
        examples.append(Example(name, item.name, item.caption, *paths, (frames, rows, columns)))
    if not examples:
        raise MochiError(f"{data}: nothing in it can be trained on{reasons(skipped)}. {EXPECTED}")
    key = digest([(example.latents.stem, example.text.stem) for example in examples])
    return TrainingSet(tuple(examples), tuple(sorted(set(skipped))), key, prompts)
