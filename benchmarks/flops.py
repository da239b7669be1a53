"""The work of a forward pass, counted from the sizes: floating-point operations, bytes of memory and of collectives.

N visual tokens, L text tokens, D_x and D_y their widths, p ranks that share a pass by Ulysses. A multiplication and an
addition are two operations. Everything is what one rank does; where shares are uneven, the rank with most of it.
"""

from collections.abc import Sequence
from typing import NamedTuple

from mochi.config import DecoderConfig, DiTConfig
from mochi.parallel.spmd.vae import ROWS, Strips
from mochi.vae.chunks import stages


class Flops(NamedTuple):
    """Of Linear layers and convolutions, and of attention (queries by keys, and by values)."""

    linears: int
    attention: int

    @property
    def all(self) -> int:
        return self.linears + self.attention


def dit_flops(config: DiTConfig, visual: int, text: int, ranks: int = 1) -> Flops:
    """A pass of AsymmDiT over N visual tokens, behind `encode_text`, which is once a run."""
    own = -(-visual // ranks)
    linears = sum(block_linears(config, own, text, last=i == config.depth - 1) for i in range(config.depth))
    return Flops(linears + outer_linears(config, visual, own), config.depth * attention(config, visual, text) // ranks)


def block_linears(config: DiTConfig, visual: int, text: int, last: bool = False) -> int:
    """A block's Linear layers. Text is on every rank, so `visual` alone is a rank's share. The last only reads text."""
    dx, dy = config.hidden_x, config.hidden_y
    modulation = dx * 4 * dx + dx * (dy if last else 4 * dy)
    of_visual = 4 * dx * dx + 3 * dx * config.mlp_x  # qkv and projection; w1, twice as wide as the MLP, and w2
    of_text = 3 * dx * dy + (0 if last else dx * dy + 3 * dy * config.mlp_y)
    return 2 * (modulation + visual * of_visual + text * of_text)


def attention(config: DiTConfig, visual: int, text: int) -> int:
    """All heads of a block: each token with each."""
    return 4 * (visual + text) ** 2 * config.hidden_x


def outer_linears(config: DiTConfig, visual: int, own: int) -> int:
    """Patch embedding, which every rank computes of all tokens; time embedding, and the final layer of its own ones."""
    dx, patch = config.hidden_x, config.patch_size**2 * config.channels
    time, final = 256 * dx + dx * dx, dx * 2 * dx
    return 2 * (visual * patch * dx + time + final + own * dx * patch)


class Elementwise(NamedTuple):
    """Bytes that everything but products reads and writes in a block. eager: each operation of mochi/dit's formulas by
    itself. fused: their kernels, each of which reads its inputs once and writes its outputs once."""

    eager: int
    fused: int


def elementwise(config: DiTConfig, visual: int, text: int, ranks: int = 1, itemsize: int = 2) -> Elementwise:
    """A block's elementwise bytes, one sample, at `itemsize` bytes a value; float32, in which norms compute, has 4."""
    half, single = itemsize, 4
    copied = 2 * half
    to_float = from_float = half + single
    norm = in_place = 2 * single
    # What comes back from other ranks is put in order; of the text all ranks have all heads of it.
    returned = copied if ranks > 1 else 0

    def stream(tokens: int, width: int, mlp: int, norms: int, heads: int, silu: int) -> int:
        """Bytes for each of its values. norms: all of a block's. heads: q, k and v to where attention reads them."""
        return tokens * (width * norms + config.hidden_x * (heads + returned) + mlp * silu)

    modulated = to_float + norm + in_place + from_float
    gated = to_float + norm + in_place + (2 * single + half) + from_float
    of_text, silu = 2 * (to_float + norm + from_float) + copied, 2 * half + 3 * half
    turned = of_text + 2 * (in_place + single)  # the table of angles is read too
    joined = 2 * copied if ranks == 1 else 0  # q and k; v is copied in any case
    eager = stream(visual, config.hidden_x, config.mlp_x, 2 * (modulated + gated), turned + joined, silu)
    eager += stream(text, config.hidden_y, config.mlp_y, 2 * (modulated + gated), (of_text + joined) // ranks, silu)

    modulated, gated, gated_and_modulated = 2 * half, 3 * half, 4 * half
    norms, of_text, silu = modulated + gated_and_modulated + gated, 3 * copied, 3 * half
    fused = stream(visual, config.hidden_x, config.mlp_x, norms, of_text + single, silu)
    fused += stream(text, config.hidden_y, config.mlp_y, norms, of_text // ranks, silu)
    return Elementwise(eager, fused)


class Sent(NamedTuple):
    """Bytes that a rank sends to others in a pass. visual: q, k, v and the result, `4 N D_x (p-1)/p^2` values a block.
    text: the results of the text's heads. output: what each token's patch becomes."""

    visual: int
    text: int
    output: int

    @property
    def all(self) -> int:
        return sum(self)


def sent(config: DiTConfig, visual: int, text: int, ranks: int, itemsize: int = 2) -> Sent:
    """Of the first rank, in a pass that `ranks` ranks share."""
    own, others = -(-visual // ranks), ranks - 1
    out_and_back = 3 * own * config.hidden_x * others // ranks + (visual - own) * config.hidden_x // ranks
    patch = config.patch_size**2 * config.channels
    return Sent(
        itemsize * config.depth * out_and_back,
        itemsize * (config.depth - 1) * text * config.hidden_x // ranks * others,
        itemsize * own * patch * others,
    )


def block_bytes(config: DiTConfig, itemsize: int = 2) -> int:
    """The weights of a block that has all of them, which sharded ranks gather."""
    dx, dy = config.hidden_x, config.hidden_y
    modulation = (dx + 1) * 4 * (dx + dy)
    streams = 3 * dx * dx + 3 * dx * dy + (dx + 1) * (dx + dy) + 3 * dx * config.mlp_x + 3 * dy * config.mlp_y
    return itemsize * (modulation + streams + 4 * config.head_dim)


def decoder_flops(config: DecoderConfig, latents: tuple[int, int, int]) -> int:
    """Convolutions and Linear layers of decoding latents (T, h, w); neither norms nor attention are in it.

    A stage that makes t frames of one drops the first t - 1 of the video.
    """
    frames, rows, columns = latents
    *stem_and_up, last = stages(config)
    total = 2 * frames * rows * columns * config.latent_channels * config.widths[-1]
    for index, stage in enumerate([*stem_and_up, last]):
        of_latents = (frames - 1) * stage.time + 1
        pixels = of_latents * rows * columns * stage.space**2
        total += 2 * pixels * 2 * stage.blocks * 27 * stage.width**2
        if 0 < index < len(stem_and_up):
            up = len(stem_and_up) - 1 - index
            unfolded = config.temporal[up] * config.spatial[up] ** 2
            total += 2 * pixels * stage.width * config.widths[up] * unfolded
    return total + 2 * pixels * last.width * 3


def strips_between(
    config: DecoderConfig, latents: tuple[int, int, int], strips: Strips, machines: Sequence[int], itemsize: int = 2
) -> dict[int, int]:
    """Bytes that leave each machine for others while a video of latents (T, h, w) is decoded in strips.

    A residual block has two norms, each with a convolution behind it. For each the ranks send the border of their strip
    to their neighbours, and mean and variance of each frame and group of channels, in float32, to all others.
    """
    frames, rows, columns = latents
    across = columns if strips.axis == ROWS else rows
    halo = statistics = 0
    for stage in stages(config):
        norms, of_stage = 2 * stage.blocks, (frames - 1) * stage.time + 1
        halo += norms * stage.width * of_stage * across * stage.space * itemsize
        statistics += norms * 2 * of_stage * config.groups * 4
    machines = machines[: strips.ranks]
    leaving = dict.fromkeys(machines, 0)
    for rank, machine in enumerate(machines):
        distant = [other for other, place in enumerate(machines) if place != machine]
        leaving[machine] += statistics * len(distant) + halo * sum(abs(other - rank) == 1 for other in distant)
    return leaving
