"""Judge the tiny model on given frames: `python -m tiny.evaluate_given --given first` (or last, both).

The prompts are of combinations that it was never trained on, and each is given a picture of a scene that it describes:
its first frame, its last one, or both. Prints how many clips show what their prompt says, and how far the given frames
of a clip are from the pictures, beside what the VAE alone makes of these.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mochi.checkpoint import load_decoder, load_dit, load_encoder
from mochi.config import TINY, TINY_WEIGHTS
from mochi.given import latent_places
from mochi.sampling import Given
from mochi.text import load_prompt_encoder
from mochi.vae.latents import to_dit, to_vae

from .captions import held_out_prompts
from .clips import FRAMES, Scene, draw
from .evaluate import FIRST_SEED, contact_sheet
from .sample import LATENT_SHAPE, decode_frames, obeyed, sample_latents, summary

WHERE = {"first": (0,), "last": (-1,), "both": (0, -1)}
BATCH = 20


class Judged:
    """The networks of a model folder, and clips made with given frames.

    Args:
        folder: of a tiny model.
        strength: how much the given frames stay as they are, 1: altogether.
    """

    def __init__(self, folder: Path, strength: float = 1.0):
        self._multiplier = 1 - strength
        self.dit = load_dit(folder / "dit.safetensors", dtype=torch.float32, device="cpu")
        self.encoder = load_encoder(folder / "encoder.safetensors", dtype=torch.float32, device="cpu")
        self.decoder = load_decoder(folder / "decoder.safetensors", dtype=torch.float32, device="cpu")
        self.text = load_prompt_encoder(folder / "t5")

    @torch.inference_mode()
    def clips(
        self, prompts: Sequence[str], scenes: Sequence[Scene], frames: Sequence[int], seed: int
    ) -> tuple[list[np.ndarray], np.ndarray]:
        """Clips (F, H, W, 3) in [0, 1], and the pictures given to each (B, len(frames), H, W, 3).

        frames: which are given, -1 being the last.
        """
        pictures = np.stack([np.stack([draw(scene)[frame] for frame in frames]) for scene in scenes])
        latents = torch.zeros(len(prompts), *LATENT_SHAPE)
        multipliers = [1.0] * LATENT_SHAPE[1]
        for i, frame in enumerate(frames):
            (place,) = latent_places(frame, 1, FRAMES)
            latents[:, :, place] = self._encoded(torch.from_numpy(pictures[:, i]))[:, :, 0]
            multipliers[place] = self._multiplier
        positive, negative = (self.dit.encode_text(*self.text(texts)) for texts in (list(prompts), [""] * len(prompts)))
        seeds = range(seed, seed + len(prompts))
        made = sample_latents(self.dit, positive, negative, seeds, given=Given(latents, tuple(multipliers)))
        return decode_frames(self.decoder, made), pictures

    @torch.inference_mode()
    def reconstructed(self, pictures: Tensor) -> Tensor:
        """What the VAE makes of pictures (B, H, W, 3)."""
        frames = self.decoder(to_vae(self._encoded(pictures), TINY.latents))
        return ((frames[:, :, 0] + 1) / 2).clamp(0, 1).movedim(1, -1)

    def _encoded(self, pictures: Tensor) -> Tensor:
        """Pictures (B, H, W, 3) in [0, 1] -> DiT latents of one frame each (B, 12, 1, h, w)."""
        return to_dit(self.encoder(pictures.movedim(-1, 1).unsqueeze(2) * 2 - 1).mean, TINY.latents)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--given", choices=WHERE, default="first")
    parser.add_argument("--strength", type=float, default=1.0)
    parser.add_argument("--model-dir", type=Path, default=TINY_WEIGHTS)
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--seed", type=int, default=2024, help="draws the prompts")
    parser.add_argument("--sheet", type=Path, help="write a PNG of the first eight clips here")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    prompts, scenes = zip(*held_out_prompts(args.prompts, args.seed), strict=True)
    judged, frames = Judged(args.model_dir, args.strength), WHERE[args.given]
    clips: list[np.ndarray] = []
    errors, floors = [], []
    for start in range(0, len(prompts), BATCH):
        part = slice(start, start + BATCH)
        made, pictures = judged.clips(prompts[part], scenes[part], frames, FIRST_SEED + start)
        clips += made
        shown = np.stack([clip[list(frames)] for clip in made])
        errors.append(np.abs(shown - pictures).mean((2, 3, 4)))
        again = judged.reconstructed(torch.from_numpy(pictures).flatten(0, 1)).numpy().reshape(pictures.shape)
        floors.append(np.abs(again - pictures).mean((2, 3, 4)))
    print(f"{args.prompts} held-out prompts, {args.given} given: {summary(obeyed(clips, scenes))}")
    for i, frame in enumerate(frames):
        error, floor = (255 * np.concatenate(several)[:, i] for several in (errors, floors))
        print(
            f"frame {frame}: mean error {error.mean():.2f} of 255 (worst clip {error.max():.2f}); "
            f"the VAE alone {floor.mean():.2f} (worst {floor.max():.2f})"
        )
    if args.sheet:
        contact_sheet(clips[:8], prompts[:8]).save(args.sheet)
        print(f"contact sheet: {args.sheet}")


if __name__ == "__main__":
    main()
