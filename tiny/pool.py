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

from .captions import training_scene
from .clips import BACKGROUNDS, COLOURS, DIRECTIONS, SHAPES, Scene, draw

SHARD = 256
_ATTRIBUTES = (SHAPES, tuple(COLOURS), tuple(DIRECTIONS), tuple(BACKGROUNDS))

Encode = Callable[[Tensor], Tensor]
"""Frames (B, 3, F, H, W) in [-1, 1] -> DiT latents (B, 12, T, h, w)."""


@dataclass(frozen=True)
class LatentPool:
    """Encoded clips: latents (N, 12, T, h, w) in the DiT's units, float16; keys (N, 4), numbers of the attributes."""

    latents: Tensor
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
) -> LatentPool:
    """Makes what the folder lacks of a pool of at least `clips` clips, then loads it.

    Args:
        made_by: `fingerprint` of the encoder; shards with another one are made anew.
        report: told (clips ready, clips wanted) after every shard.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shards = -(-clips // SHARD)
    loaded = []
    for number in range(shards):
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
    return LatentPool(*(torch.cat([shard[name] for shard in loaded]) for name in ("latents", "keys")))


def _load(path: Path, made_by: str) -> dict[str, Tensor] | None:
    if not path.exists():
        return None
    with safe_open(path, "pt") as file:
        if (file.metadata() or {}).get("made_by") != made_by:
            return None
        return {name: file.get_tensor(name) for name in ("latents", "keys")}


def _make(rng: np.random.Generator, encode: Encode, batch: int = 8) -> dict[str, Tensor]:
    scenes = [training_scene(rng) for _ in range(SHARD)]
    latents = []
    for start in range(0, SHARD, batch):
        video = torch.from_numpy(np.stack([draw(scene) for scene in scenes[start : start + batch]]))
        with torch.inference_mode():
            latents.append(encode(video.permute(0, 4, 1, 2, 3) * 2 - 1).half())
    keys = [[names.index(value) for names, value in zip(_ATTRIBUTES, s.key, strict=True)] for s in scenes]
    return {"latents": torch.cat(latents).contiguous(), "keys": torch.tensor(keys, dtype=torch.uint8)}
