"""A pool of encoded training clips, kept on disk in shards so that it is made once and can be made piecemeal."""

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from mochi.geometry import TIME

from .captions import training_scene
from .clips import BACKGROUNDS, COLOURS, DIRECTIONS, SHAPES, Scene, draw

SHARD = 256
_TENSORS = ("latents", "stills", "keys")
_ATTRIBUTES = (SHAPES, tuple(COLOURS), tuple(DIRECTIONS), tuple(BACKGROUNDS))

Encode = Callable[[Tensor], Tensor]
"""Frames (B, 3, F, H, W) in [-1, 1] -> DiT latents (B, 12, T, h, w)."""


@dataclass(frozen=True)
class LatentPool:
    """Encoded clips, float16, in the DiT's units.

    Attributes:
        latents: (N, 12, T, h, w).
        stills: for each latent frame but the first, one of its frames as a picture of its own, (N, 12, T - 1, h, w).
            That is what a given frame is.
        keys: numbers of the attributes, (N, 4).
    """

    latents: Tensor
    stills: Tensor
    keys: Tensor

    def __len__(self) -> int:
        return len(self.keys)

    def scene(self, index: int) -> Scene:
        """The attributes of a clip; where exactly the object was is not kept."""
        return Scene(*(names[i] for names, i in zip(_ATTRIBUTES, self.keys[index].tolist(), strict=True)))


def fingerprint(*parts: bytes) -> str:
    """Short name of what made the latents; a pool made by another encoder is not reused."""
    return hashlib.sha256(b"|".join(parts)).hexdigest()[:16]


def build_pool(
    folder: Path,
    clips: int,
    encode: Encode,
    made_by: str,
    seed: int = 0,
    report: Callable[[int, int], None] | None = None,
    share: tuple[int, int] = (0, 1),
) -> LatentPool:
    """Makes what the folder lacks of a pool of at least `clips` clips, then loads it.

    Args:
        made_by: `fingerprint` of the encoder; shards with another one are made anew.
        report: told (clips ready, clips wanted) after every shard.
        share: this process, and how many make the pool together; the others' shards are not loaded.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shards = -(-clips // SHARD)
    loaded = []
    for number in range(share[0], shards, share[1]):
        path = folder / f"latents-{number:04d}.safetensors"
        shard = _load(path, made_by)
        if shard is None:
            shard = _make(np.random.default_rng([seed, number]), encode)
            part = path.with_suffix(".part")
            save_file(shard, part, metadata={"made_by": made_by})
            os.replace(part, path)
        loaded.append(shard)
        if report:
            report((number + 1) * SHARD, shards * SHARD)
    return LatentPool(*(torch.cat([shard[name] for shard in loaded]) for name in _TENSORS))


def _load(path: Path, made_by: str) -> dict[str, Tensor] | None:
    if not path.exists():
        return None
    with safe_open(path, "pt") as file:
        if (file.metadata() or {}).get("made_by") != made_by or set(file.keys()) != set(_TENSORS):
            return None
        return {name: file.get_tensor(name) for name in _TENSORS}


def _make(rng: np.random.Generator, encode: Encode, batch: int = 8) -> dict[str, Tensor]:
    scenes = [training_scene(rng) for _ in range(SHARD)]
    latents, stills = [], []
    for start in range(0, SHARD, batch):
        video = torch.from_numpy(np.stack([draw(scene) for scene in scenes[start : start + batch]]))
        video = video.permute(0, 4, 1, 2, 3) * 2 - 1
        # Half of the time the last of the frames that a latent stands for: an end frame is one.
        back = rng.integers(TIME, size=(video.shape[2] - 1) // TIME) * rng.integers(2)
        frames = [TIME * (place + 1) - int(back[place]) for place in range(len(back))]
        with torch.inference_mode():
            latents.append(encode(video).half())
            pictures = video[:, :, frames].transpose(1, 2).flatten(0, 1).unsqueeze(2)
            stills.append(encode(pictures).half().squeeze(2).unflatten(0, (len(video), -1)).transpose(1, 2))
    keys = [[names.index(value) for names, value in zip(_ATTRIBUTES, s.key, strict=True)] for s in scenes]
    return {
        "latents": torch.cat(latents).contiguous(),
        "stills": torch.cat(stills).contiguous(),
        "keys": torch.tensor(keys, dtype=torch.uint8),
    }
