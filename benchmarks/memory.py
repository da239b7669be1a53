"""The memory forecast beside what it predicts: `python -m benchmarks.memory`, on a CPU, in half a minute.

The denoiser, the decoder and T5 run, some at the published width with fewer blocks, and the tensors that are alive are
counted. It prints, for each: bytes predicted and measured, without the weights, and their ratio. For the denoiser it
also prints how many copies of a rank's visual tokens that is, behind TEXT_COPIES: see mochi/memory.py. What
kernels and allocators take inside themselves is not seen here. The denoiser and the decoder run on tensors without
values, which live as long as real ones. T5 really runs, since its way depends on values.
"""

import argparse
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import T5Config, T5EncoderModel

from benchmarks.live import WithoutValues, peak_bytes
from benchmarks.report import add_option, report
from mochi.config import TINY, DecoderConfig, DiTConfig
from mochi.dit import PLAIN, AsymmDiT, TextContext
from mochi.memory import T5_VALUES, TEXT_COPIES, activations, positions, tokens_of
from mochi.parallel.spmd.collectives import Pending
from mochi.parallel.spmd.ulysses import TokenShards, UlyssesAttention
from mochi.quant import Ggml, quant_linears
from mochi.vae import Borders, Decoder
from mochi.vae.chunks import live_values

MEDIUM = DiTConfig(depth=2, num_heads=12, hidden_x=768, hidden_y=384, mlp_x=2048, mlp_y=1024, text_width=256)
PUBLISHED_WIDTH = DiTConfig(depth=1)
PROMPT = 256  # tokens


class Figures(NamedTuple):
    """Bytes without those of the weights. copies: of a rank's visual tokens, measured."""

    predicted: int
    measured: int
    copies: float | None = None


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__.split("\n\n")[0])
    add_option(parser)
    options = parser.parse_args()
    figures = {}
    for name, measure in cases():
        predicted, measured, copies = measure()
        figures[name] = {
            "predicted MB": predicted / 1e6,
            "measured MB": measured / 1e6,
            "ratio": predicted / measured,
            "copies": copies,
        }
    report("memory", figures, options.json)


def cases() -> Iterator[tuple[str, Callable[[], Figures]]]:
    bf16, f32 = torch.bfloat16, torch.float32
    yield "denoiser, tiny, float32", lambda: denoiser(TINY.dit, (1, 12, 8, 32, 32), f32)
    yield "denoiser, 768 wide, bfloat16", lambda: denoiser(MEDIUM, (1, 12, 8, 40, 40), bf16)
    yield "denoiser, 768 wide, two samples", lambda: denoiser(MEDIUM, (2, 12, 4, 40, 40), bf16)
    yield "denoiser, 768 wide, one of 2 ranks", lambda: denoiser(MEDIUM, (1, 12, 8, 40, 40), bf16, ulysses=2)
    yield "denoiser, 768 wide, one of 6 ranks", lambda: denoiser(MEDIUM, (1, 12, 8, 40, 40), f32, ulysses=6)
    yield "denoiser, 768 wide, Q8_0", lambda: denoiser(MEDIUM, (1, 12, 8, 40, 40), bf16, quant=Ggml("Q8_0"))
    yield "denoiser, published width, bfloat16", lambda: denoiser(PUBLISHED_WIDTH, (1, 12, 8, 32, 32), bf16)
    yield "denoiser, published width, float32", lambda: denoiser(PUBLISHED_WIDTH, (1, 12, 4, 32, 32), f32)
    q3_k = Ggml("Q3_K")
    yield "denoiser, published width, Q3_K", lambda: denoiser(PUBLISHED_WIDTH, (1, 12, 4, 32, 32), bf16, quant=q3_k)
    yield "decoder, tiny, bfloat16", lambda: decoder(TINY.decoder, (1, 12, 4, 8, 8), bf16)
    yield "decoder, a quarter of the width, bfloat16", lambda: decoder(DecoderConfig(base=32), (1, 12, 4, 16, 24), bf16)
    yield "decoder, published width, bfloat16", lambda: decoder(DecoderConfig(), (1, 12, 3, 8, 8), bf16)
    yield "decoder, published width, float32", lambda: decoder(DecoderConfig(), (1, 12, 3, 8, 8), f32)
    yield "T5, 512 wide, bfloat16", lambda: text_encoder(512, bf16)
    yield "T5, 512 wide, float32", lambda: text_encoder(512, f32)


def denoiser(
    config: DiTConfig,
    latents: tuple[int, ...],
    dtype: torch.dtype,
    ulysses: int = 1,
    quant: Ggml | None = None,
    real: bool = False,
    levels: bool = False,
) -> Figures:
    """A forward pass and its table of positions, on one of `ulysses` ranks that share the tokens.

    real: with values. levels: each latent frame has a noise level of its own; only with values, which are compared.
    """
    with nullcontext() if real else WithoutValues():
        return _denoiser(config, latents, dtype, ulysses, quant, levels)


def _denoiser(
    config: DiTConfig, latents: tuple[int, ...], dtype: torch.dtype, ulysses: int, quant: Ggml | None, levels: bool
) -> Figures:
    model = _random(AsymmDiT(config, dtype=dtype))
    if quant is not None:
        linears = (name for name, p in model.named_parameters() if name.startswith("blocks.") and p.ndim == 2)
        quant_linears(model, dict.fromkeys(linears, quant))
    runner = _share(model, ulysses) if ulysses > 1 else PLAIN
    batch, length = latents[0], config.text_length
    words = torch.randn(batch, length, config.hidden_y, dtype=dtype)
    prompts = TextContext(torch.randn(batch, config.hidden_x, dtype=dtype), words, (length,) * batch)
    z, sigma = torch.randn(latents, dtype=dtype), torch.full((batch,), 0.5)
    if levels:
        sigma = torch.linspace(0.5, 0.6, latents[2]).expand(batch, -1)

    def run() -> None:
        model(z, sigma, prompts, _part(model.rotary(*latents[2:]), ulysses), runner)

    measured = peak_bytes(run, [*model.parameters(), z])
    _, tokens = tokens_of(config, latents)
    table = positions(config, tokens, ulysses)
    predicted = activations(config, tokens, batch, dtype, ulysses, quant is not None)
    own, token = -(-tokens // ulysses), batch * config.hidden_x * dtype.itemsize
    visual = measured - table - token * (tokens - own + TEXT_COPIES * length)
    return Figures(predicted + table, measured, visual / (token * own))


def decoder(
    config: DecoderConfig,
    latents: tuple[int, ...],
    dtype: torch.dtype,
    chunk: int = 1,
    in_strips: bool = False,
    real: bool = False,
) -> Figures:
    """The frames of a video, each piece dropped at once. in_strips: as a rank takes those of its strip. real: with
    values."""
    with nullcontext() if real else WithoutValues():
        return _decoder(config, latents, dtype, chunk, in_strips)


def _decoder(
    config: DecoderConfig, latents: tuple[int, ...], dtype: torch.dtype, chunk: int, in_strips: bool
) -> Figures:
    model = _random(Decoder(config, dtype=dtype))
    z = torch.randn(latents, dtype=dtype)

    def run() -> None:
        for _ in model.stream(z, chunk, Borders() if in_strips else None):
            pass

    values = live_values(config, chunk, *latents[3:], in_strips=in_strips)
    predicted = latents[0] * (sum(values.values()) - values["kernels"]) * dtype.itemsize
    return Figures(predicted, peak_bytes(run, [*model.parameters(), z]))


def text_encoder(width: int, dtype: torch.dtype, prompts: int = 2) -> Figures:
    """Two layers of T5, in the proportions of the published encoder."""
    config = T5Config(
        vocab_size=100,
        d_model=width,
        d_kv=64,
        d_ff=5 * width // 2,
        num_layers=2,
        num_heads=width // 64,
        feed_forward_proj="gated-gelu",
        attn_implementation="eager",
    )
    model = T5EncoderModel(config).to(dtype).eval().requires_grad_(False)
    ids, mask = (torch.ones(prompts, PROMPT, dtype=torch.long) for _ in range(2))
    measured = peak_bytes(lambda: model(input_ids=ids, attention_mask=mask), [*model.parameters(), ids, mask])
    return Figures(T5_VALUES * prompts * PROMPT * width * dtype.itemsize, measured)


@dataclass
class OnItsWay:
    """What is being sent, which is held until it has arrived."""

    sent: list[Tensor]

    def wait(self) -> None:
        self.sent.clear()


class AlonePeers:
    """The first of `size` ranks, whose peers send what happens to be in memory: it holds what a real rank holds."""

    def __init__(self, size: int):
        self.rank, self.size = 0, size

    def shares(self, rows: int) -> list[int]:
        return [len(part) for part in torch.empty(rows, 0).tensor_split(self.size)]

    def all_to_all(self, t: Tensor, give: Any, take: list[int], into: Tensor | None = None) -> Pending[Tensor]:
        arrived = t.new_empty(sum(take), *t.shape[1:]) if into is None else into
        return Pending(OnItsWay([t]), lambda: arrived)

    def all_gather(self, t: Tensor) -> Pending[Tensor]:
        arrived = t.new_empty(self.size, *t.shape)
        return Pending(OnItsWay([]), lambda: arrived)

    def gather_rows(self, t: Tensor, shares: list[int]) -> Tensor:
        return t.new_empty(sum(shares), *t.shape[1:])


def _share(model: AsymmDiT, ranks: int) -> TokenShards:
    shards = TokenShards(AlonePeers(ranks))
    for block in model.blocks:
        block.attn.joint = UlyssesAttention(shards=shards, text_is_read=block.attn.proj_y is not None)
    return shards


def _part(table: Tensor, ranks: int) -> Tensor:
    return table if ranks == 1 else table.tensor_split(ranks)[0].clone()


def _random(network: nn.Module) -> nn.Module:
    for p in network.requires_grad_(False).eval().parameters():
        p.normal_(0, 0.02)
    return network


if __name__ == "__main__":
    main()
