"""How sharp and how steady a clip of the tiny model's world is: a plain object before a plain background."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

EDGE = 0.995
"""An object's outline is more than the rest of a frame's pixels, whatever its shape and the frame's size."""
OTHER = 0.25
"""Distance in RGB from which a colour is another one."""
SOFT = 3
"""Pixels around an object in which its edge or a trace of it may be."""


def sharpness(clip: np.ndarray) -> float:
    """The steepest edges, as the part of the contrast that they cross from a pixel to the next.

    Near 1 where edges are as sharp as pixels are, 1 / n where they are smeared over n pixels, 0 in an empty clip.

    Args:
        clip: (F, H, W, 3), floats in [0, 1].
    """
    return float(np.mean([_steepest(frame) for frame in clip]))


def flicker(clip: np.ndarray) -> float:
    """The mean change of the background from a frame to the next, in levels of 255."""
    away = _from_ground(clip)
    contrast = np.quantile(away, EDGE)
    is_object = (away > 0.25 * contrast) if contrast > 0.1 else np.zeros(away.shape, bool)
    is_near = _widened(is_object)
    is_ground = ~(is_near[1:] | is_near[:-1])
    change = np.abs(np.diff(clip, axis=0)).mean(-1)
    return float(change[is_ground].mean() * 255) if is_ground.any() else float("nan")


def stray(clip: np.ndarray, colours: Sequence[Sequence[float]]) -> float:
    """The share of pixels, in percent, whose colour is neither of two, nor between them as at an edge.

    Args:
        colours: of the background and of the object, floats in [0, 1].
    """
    ground, ink = np.asarray(colours, float)
    axis = ink - ground
    share = ((clip - ground) @ axis / (axis @ axis)).clip(0, 1)
    away = np.linalg.norm(clip - (ground + share[..., None] * axis), axis=-1)
    return float((away > OTHER).mean() * 100)


def psnr(clips: Sequence[np.ndarray], others: Sequence[np.ndarray]) -> float:
    """Decibels between clips that are alike in all but one setting, over all their pixels; infinite where equal."""
    error = np.mean([np.square(a - b).mean() for a, b in zip(clips, others, strict=True)])
    return float("inf") if error == 0 else float(-10 * np.log10(error))


def _widened(masks: np.ndarray) -> np.ndarray:
    """Masks (F, H, W) with all pixels around them, SOFT wide."""
    return F.max_pool2d(torch.from_numpy(masks).float(), 2 * SOFT + 1, stride=1, padding=SOFT).bool().numpy()


def _steepest(frame: np.ndarray) -> float:
    """The steepest edges of a frame over its contrast."""
    contrast = np.quantile(_from_ground(frame[None]), EDGE)
    if contrast < 0.1:
        return 0.0
    down, right = np.diff(frame, axis=0)[:, :-1], np.diff(frame, axis=1)[:-1]
    slope = np.sqrt(np.square(down).sum(-1) + np.square(right).sum(-1))
    return float(min(np.quantile(slope, EDGE) / contrast, 1.0))


def _from_ground(clip: np.ndarray) -> np.ndarray:
    """How far each pixel's colour is from the background's, which is the median of the borders: (F, H, W)."""
    sides = (clip[:, 0], clip[:, -1], clip[:, :, 0], clip[:, :, -1])
    ground = np.median(np.concatenate([side.reshape(-1, 3) for side in sides]), axis=0)
    return np.sqrt(np.square(clip - ground).sum(-1))
