"""Train the tiny AsymmVAE on drawn clips: `torchrun --nproc-per-node 2 -m tiny.train_vae --threads 1`.

Short clips suffice, since the networks are causal and every later frame is computed like the second;
so do windows of the frames, since they are convolutions. The object fills a tenth of the picture, so its
pixels and those about its edge weigh more. Stops and continues from `--work`. `python -m` is one process.
"""

import argparse
import json
import math
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mochi.config import TINY, TINY_WEIGHTS
from mochi.vae import Decoder, Encoder
from mochi.vae.layers import ResBlock

from .clips import FRAMES, draw_with_mask, random_scene
from .training import Run, computing_dtype, in_dtype, join_processes

KL_WEIGHT = 1e-4
LATENT_NOISE = 0.03  # what the decoder must tolerate from a denoiser that is nearly right


class Autoencoder(nn.Module):
    """Encoder and decoder under one optimizer."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = Encoder(TINY.encoder), Decoder(TINY.decoder)
        self._start_linear()

    @torch.no_grad()
    def _start_linear(self) -> None:
        """Begin as a linear map of patches that loses nothing to scale, which finds position and colour early.

        Residual branches start at zero, and so do the Fourier features, which are noise to a plain colour.
        """
        for module in self.modules():
            if isinstance(module, nn.Linear) or (isinstance(module, nn.Conv3d) and module.kernel_size != (3, 3, 3)):
                nn.init.orthogonal_(module.weight.view(module.weight.shape[0], -1))
            if isinstance(module, ResBlock):
                for parameter in module.stack[-1].parameters():
                    nn.init.zeros_(parameter)
        first = self.encoder.layers[0]
        assert isinstance(first, nn.Linear)
        first.weight[:, 3:] = 0


def clip_batch(rng: np.random.Generator, batch: int, frames: int) -> tuple[Tensor, Tensor]:
    """Videos (B, 3, F, 64, 64) in [-1, 1] and object masks (B, 1, F, 64, 64)."""
    drawn = [
        draw_with_mask(random_scene(rng), frames, first=int(rng.integers(FRAMES - frames + 1))) for _ in range(batch)
    ]
    videos, masks = (torch.from_numpy(np.stack(part)) for part in zip(*drawn, strict=True))
    return videos.movedim(-1, 1) * 2 - 1, masks.unsqueeze(1)


def crop(video: Tensor, mask: Tensor, rng: np.random.Generator, size: int) -> tuple[Tensor, Tensor]:
    """A window of each clip of a batch, about some pixel of its object."""
    windows = []
    for clip, covered in zip(video, mask, strict=True):
        pixels = covered[0, int(rng.integers(covered.shape[1]))].nonzero()
        centre = pixels[int(rng.integers(len(pixels)))].tolist()
        top, left = (min(max(at - size // 2, 0), clip.shape[-1] - size) for at in centre)
        window = (..., slice(top, top + size), slice(left, left + size))
        windows.append((clip[window], covered[window]))
    videos, masks = zip(*windows, strict=True)
    return torch.stack(videos), torch.stack(masks)


def loss_of(model: Autoencoder, video: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Training loss and the plain mean squared error in [0, 1] pixels."""
    dtype = computing_dtype()
    mean, logvar = in_dtype(model.encoder, dtype, video.to(dtype))
    mean, logvar = mean.float(), logvar.float().clamp(-20, 10)
    noise = torch.randn_like(mean) * ((0.5 * logvar).exp() ** 2 + LATENT_NOISE**2).sqrt()
    error = in_dtype(model.decoder, dtype, (mean + noise).to(dtype)).float() - video
    kl = 0.5 * (mean**2 + logvar.exp() - 1 - logvar).mean()
    weight = 1 + 4 * nn.functional.max_pool3d(mask, (1, 7, 7), stride=1, padding=(0, 3, 3))  # with a rim: no halos
    return (weight * (error.abs() / 4 + 2 * error**2)).mean() + KL_WEIGHT * kl, (error.detach() ** 2).mean() / 4


@torch.inference_mode()
def evaluate(run: Run[Autoencoder], clips: int = 8) -> float:
    """PSNR in dB of whole 25-frame clips never seen in training, with the averaged weights."""
    model = Autoencoder()
    model.load_state_dict(run.averaged)
    video, _ = clip_batch(np.random.default_rng(999), clips, FRAMES)
    shown = model.decoder(model.encoder(video).mean).clamp(-1, 1)
    return -10 * math.log10(((shown - video) ** 2).mean().item() / 4)


@torch.inference_mode()
def latent_statistics(encoder: Encoder, clips: int = 256) -> dict[str, list]:
    """Mean and deviation of each latent channel, and the least-squares guess at colours for previews."""
    rng = np.random.default_rng(1)
    latents, colours = [], []
    for _ in range(clips // 8):
        video, _ = clip_batch(rng, 8, FRAMES)
        latents.append(encoder(video).mean.movedim(1, -1))
        small = video[:, :, :: math.prod(TINY.encoder.temporal)]
        factor = math.prod(TINY.encoder.spatial)
        colours.append(nn.functional.avg_pool3d(small, (1, factor, factor)).movedim(1, -1))
    z, rgb = torch.cat(latents).flatten(0, -2).double(), torch.cat(colours).flatten(0, -2).double()
    mean, std = z.mean(0), z.std(0)
    normed = torch.cat(((z - mean) / std, torch.ones(len(z), 1, dtype=z.dtype)), dim=1)
    factors = torch.linalg.lstsq(normed, rgb).solution
    return {"mean": mean.tolist(), "std": std.tolist(), "rgb": factors[:-1].tolist(), "rgb_bias": factors[-1].tolist()}


def export(run: Run[Autoencoder], folder: Path) -> None:
    """Write encoder, decoder (float16) and the latents' statistics."""
    model = Autoencoder()
    model.load_state_dict(run.averaged)
    model.half().float()  # the statistics of what is stored
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in model.named_children():
        weights = {k: v.half().contiguous() for k, v in part.state_dict().items()}
        hints = {"config": json.dumps(asdict(getattr(TINY, name)))}  # group count and head width show in no shape
        save_file(weights, folder / f"{name}.safetensors", hints)
    (folder / "latents.json").write_text(json.dumps(latent_statistics(model.encoder), indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--work", type=Path, default=Path(".cache/tiny"), help="folder of the checkpoint")
    parser.add_argument("--output", type=Path, default=TINY_WEIGHTS)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--go-on", action="store_true", help="begin with the weights in `--output`")
    parser.add_argument("--encoder-rate", type=float, default=1.0, help="factor on the encoder's learning rate")
    parser.add_argument("--decoder-only", action="store_true", help="leave the encoder, and so the latents, as it is")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rank, processes = join_processes()

    model = Autoencoder()
    if args.go_on:
        model.encoder.load_state_dict(load_file(args.output / "encoder.safetensors"))
        model.decoder.load_state_dict(load_file(args.output / "decoder.safetensors"))
    model.encoder.requires_grad_(not args.decoder_only)
    rates = {"encoder": args.encoder_rate}
    run = Run(model, args.work / "vae.safetensors", args.minutes, lr=args.lr, ema=0.998, rates=rates)
    rng = np.random.default_rng([1000, run.step, rank])
    torch.manual_seed(run.step * processes + rank)
    squared = []
    while not run.done:
        # Windows cost a quarter of whole frames and teach nearly as much; norms must know both.
        whole = run.elapsed > 0.75 * run.budget or run.step % 4 == 0
        frames = 13 if run.step % 8 == 0 else 7
        batch = clip_batch(rng, ((4 if frames == 7 else 2) if whole else 8) // processes, frames)
        loss, mse = loss_of(run.model, *(batch if whole else crop(*batch, rng, 32)))
        run.update(loss)
        squared.append(mse.item())
        if rank:
            continue
        if run.step % 100 == 0:
            print(
                f"step {run.step} {run.elapsed / 60:.1f} min loss {loss.item():.4f} "
                f"PSNR {-10 * math.log10(np.mean(squared)):.2f} dB",
                flush=True,
            )
            squared.clear()
        if run.step % 500 == 0:
            run.save()
            print(f"held-out clips: {evaluate(run):.2f} dB", flush=True)
            run.pause()
    if rank:
        return
    run.save()
    export(run, args.output)
    print(f"done: {evaluate(run):.2f} dB; weights in {args.output}")


if __name__ == "__main__":
    main()
