"""Train the tiny T5 and AsymmDiT together: `torchrun --nproc-per-node 2 -m tiny.train_dit --threads 1`.

Flow matching on a pool of clips that the tiny VAE has encoded. Stops and continues from `--work`. On a CPU two
processes of one thread each do twice the work of one process with two; `python -m` is one process.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase, T5EncoderModel

from mochi.checkpoint import load_decoder, load_encoder
from mochi.config import TINY, TINY_WEIGHTS
from mochi.vae.latents import to_dit
from mochi.variant import FRAMES, METADATA

from .captions import caption, held_out_prompts, with_fillers
from .clips import SHAPES
from .networks import PromptedDiT, tokenize
from .pool import LatentPool, build_pool, fingerprint
from .sample import decode_frames, rates, sample_latents
from .tokenizer import make_tokenizer
from .training import Run, computing_dtype, join_processes


@dataclass(frozen=True)
class Recipe:
    """How a training batch is made."""

    batch: int = 32
    dropped: float = 0.1
    """Share of captions left out, for guidance."""
    filled: float = 0.1
    """Share of captions with strewn-in words that mean nothing."""
    alike: float = 0.6
    """Share of clips drawn from circles and squares alone, which only their corners tell apart."""
    given: float = 0.5
    """Share of clips of which some frames are given, with less noise than the others or none."""
    text_length: int = 20
    """Tokens of a training caption; the longest plain one has 20."""


@dataclass(frozen=True)
class Batch:
    """z0 and noise (B, 12, T, h, w), sigma (B, T), token ids and mask (B, L)."""

    z0: Tensor
    noise: Tensor
    sigma: Tensor
    ids: Tensor
    mask: Tensor


def noise_levels(rng: np.random.Generator, count: int) -> Tensor:
    """Sigmas in (0, 1]: where the prompt decides about place and motion (near 1) and about shape (in the middle).

    Seven tenths logit-normal about 0.65; the rest is uniform, or in the last fifth.
    """
    middle = 1 / (1 + np.exp(-rng.normal(0.6, 0.9, count)))
    late = 1 - 0.2 * rng.random(count) ** 2
    kind = rng.random(count)
    sigma = np.where(kind < 0.7, middle, np.where(kind < 0.85, 1 - rng.random(count), late))
    return torch.from_numpy(sigma.astype(np.float32))


def batch_of(pool: LatentPool, tokenizer: PreTrainedTokenizerBase, recipe: Recipe, rng: np.random.Generator) -> Batch:
    """A random batch; every clip gets a new caption each time."""
    index = rng.integers(len(pool), size=recipe.batch)
    alike = np.flatnonzero(np.isin(pool.keys[:, 0], [SHAPES.index("circle"), SHAPES.index("square")]))
    again = rng.random(recipe.batch) < recipe.alike
    if len(alike):
        index[again] = rng.choice(alike, size=again.sum())
    prompts = []
    for i in index:
        text = caption(pool.scene(i), rng)
        if rng.random() < recipe.filled:
            text = with_fillers(text, rng)
        prompts.append("" if rng.random() < recipe.dropped else text)
    chosen = torch.from_numpy(index)
    z0, stills = pool.latents[chosen].float(), pool.stills[chosen].float()
    multipliers = torch.ones(recipe.batch, z0.shape[2])
    for i in np.flatnonzero(rng.random(recipe.batch) < recipe.given):
        for place, multiplier in given_frames(rng, z0.shape[2]).items():
            multipliers[i, place] = multiplier
            if place:  # the first one is a picture anyway
                z0[i, :, place] = stills[i, :, place - 1]
    sigma = noise_levels(rng, recipe.batch)[:, None] * multipliers
    noise = torch.from_numpy(rng.standard_normal(z0.shape, np.float32))
    return Batch(z0, noise, sigma, *tokenize(tokenizer, prompts, recipe.text_length))


def given_frames(rng: np.random.Generator, frames: int) -> dict[int, float]:
    """Which latent frames of a clip are given, and their noise multipliers: its first, its last, both, or any two."""
    places = rng.choice(frames, size=2, replace=False)
    last = frames - 1
    chosen = [[0], [last], [0, last], places.tolist()][int(rng.choice(4, p=[0.4, 0.2, 0.3, 0.1]))]
    return {place: 0.0 if rng.random() < 0.7 else float(rng.random()) for place in chosen}


def loss_of(model: PromptedDiT, batch: Batch) -> Tensor:
    """Mean squared error of the predicted `z0 - noise`. A frame without noise does not tell of any."""
    s = batch.sigma[:, None, :, None, None]
    with torch.autocast("cpu", torch.bfloat16, enabled=computing_dtype() == torch.bfloat16):
        flow = model((1 - s) * batch.z0 + s * batch.noise, batch.sigma, batch.ids, batch.mask)
    error = (flow.float() - (batch.z0 - batch.noise)).square() * (s > 0)
    return error.sum() / ((s > 0).sum() * error[0, :, 0].numel())


def encode(encoder: torch.nn.Module, video: Tensor) -> Tensor:
    """Frames in [-1, 1] -> DiT latents; the pool's encoder."""
    return to_dit(encoder(video.to(computing_dtype())).mean.float(), TINY.latents)


def averaged(run: Run[PromptedDiT], tokenizer: PreTrainedTokenizerBase) -> PromptedDiT:
    """The networks with the run's averaged weights."""
    model = PromptedDiT(TINY.dit, len(tokenizer))
    model.load_state_dict(run.averaged, strict=False)
    return model.eval()


@torch.inference_mode()
def check(run: Run[PromptedDiT], tokenizer: PreTrainedTokenizerBase, decoder: torch.nn.Module, count: int = 32) -> str:
    """How many held-out prompts the averaged weights obey."""
    model = averaged(run, tokenizer)
    texts, scenes = zip(*held_out_prompts(count, seed=1), strict=True)
    prompts, empty = (model.context(*tokenize(tokenizer, some)) for some in (texts, [""] * count))
    return rates(decode_frames(decoder, sample_latents(model.dit, prompts, empty, range(count))), scenes)


def export(run: Run[PromptedDiT], tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write the averaged weights as float16: dit.safetensors and, beside its tokenizer, the encoder in t5/."""
    model = averaged(run, tokenizer)
    half = {k: v if k == "pos_frequencies" else v.half() for k, v in model.dit.state_dict().items()}
    folder.mkdir(parents=True, exist_ok=True)
    save_file({k: v.contiguous() for k, v in half.items()}, folder / "dit.safetensors", {METADATA: FRAMES})
    model.t5.half().save_pretrained(folder / "t5")


def train(
    run: Run[PromptedDiT],
    pool: LatentPool,
    tokenizer: PreTrainedTokenizerBase,
    recipe: Recipe,
    checked: Callable[[], str],
) -> None:
    """Train until the run's budget is spent; report, save, and ask `checked` how well it goes, on the way."""
    rank = dist.get_rank() if dist.is_initialized() else 0
    rng = np.random.default_rng([1, run.step, rank])
    losses: list[float] = []
    since = run.elapsed
    while not run.done:
        loss = loss_of(run.model, batch_of(pool, tokenizer, recipe, rng))
        run.update(loss)
        losses.append(loss.item())
        if rank:
            continue
        if run.step % 100 == 0:
            pace = (run.elapsed - since) / len(losses)
            loss_now, minutes = np.mean(losses), run.elapsed / 60
            print(f"step {run.step} {minutes:.1f} min loss {loss_now:.4f} {pace:.3f} s/step", flush=True)
            losses.clear()
            since = run.elapsed
        if run.step % 500 == 0:
            run.save()
            print("held-out prompts:", checked(), flush=True)
            run.pause()
    if not rank:
        run.save()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=75)
    parser.add_argument("--clips", type=int, default=8192, help="size of the pool of encoded clips")
    parser.add_argument("--work", type=Path, default=Path(".cache/tiny"), help="folder of pool and checkpoint")
    parser.add_argument("--output", type=Path, default=TINY_WEIGHTS, help="where the VAE is and the weights go")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--batch", type=int, default=Recipe.batch, help="clips in a step of each process")
    parser.add_argument("--given", type=float, default=Recipe.given, help="share of clips with given frames")
    parser.add_argument("--go-on", action="store_true", help="begin with the weights in `--output`")
    parser.add_argument("--compile", action="store_true", help="1.6 times faster, but takes a C++ compiler and minutes")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    rank, processes = join_processes()
    first = rank == 0

    encoder_file = args.output / "encoder.safetensors"
    encoder = load_encoder(encoder_file, dtype=computing_dtype(), device="cpu")  # any rounding is far below the noise
    decoder = load_decoder(args.output / "decoder.safetensors", dtype=torch.float32, device="cpu")
    made_by = fingerprint(encoder_file.read_bytes(), repr(TINY.latents).encode())
    report, share = _pool_report if first else None, (rank, processes)
    build_pool(args.work / "pool", args.clips, partial(encode, encoder), made_by, report=report, share=share)
    if first and not args.go_on:
        make_tokenizer(args.output / "t5")
    if dist.is_initialized():
        dist.barrier()
    pool = build_pool(args.work / "pool", args.clips, partial(encode, encoder), made_by)
    tokenizer = AutoTokenizer.from_pretrained(str(args.output / "t5"))
    model = PromptedDiT(TINY.dit, len(tokenizer))
    if args.go_on:
        model.dit.load_state_dict(load_file(args.output / "dit.safetensors"))
        model.t5.load_state_dict(T5EncoderModel.from_pretrained(str(args.output / "t5")).state_dict())
    recipe = Recipe(batch=args.batch, given=args.given)
    run = Run(model, args.work / "dit.safetensors", args.minutes, lr=args.lr, ema=0.998)
    if args.compile:
        run.model.flow = torch.compile(run.model.flow)
        loss_of(run.model, batch_of(pool, tokenizer, recipe, np.random.default_rng(0))).backward()
        run.pause()
    train(run, pool, tokenizer, recipe, lambda: check(run, tokenizer, decoder))
    if not first:
        return
    export(run, tokenizer, args.output)
    print(f"done: {check(run, tokenizer, decoder, 64)}; weights in {args.output}")


def _pool_report(ready: int, wanted: int) -> None:
    print(f"pool: {ready} of {wanted} clips", flush=True)


if __name__ == "__main__":
    main()
