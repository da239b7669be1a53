"""The layout of the diffusers library: other names; q, k and v apart; and three layers with their halves swapped.

Source: MochiTransformer3DModel and AutoencoderKLMochi. Each of our layers has the rows of one of theirs, or of several,
one after the other.
"""

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ..lazy import LazyTensor, LazyTensors, Piece, joined
from .genmo import Parts, under

DIT = ("pos_frequencies", "patch_embed.proj.weight", "transformer_blocks.0.attn1.add_q_proj.weight")
DECODER = ("decoder.conv_in.weight", "decoder.block_in.resnets.0.conv1.conv.weight", "decoder.proj_out.weight")
ENCODER = ("encoder.proj_in.weight", "encoder.block_in.resnets.0.conv1.conv.weight", "encoder.proj_out.weight")


class Source(NamedTuple):
    """Where the rows of one of our layers are.

    Attributes:
        layers: names of their layers, in the order of our rows.
        swapped: whether theirs has the second half of our rows first. Only a single layer can be.
    """

    layers: tuple[str, ...]
    swapped: bool = False


Sources = dict[str, Source]
"""The name of our layer, without `.weight` and `.bias` -> where its rows are."""

DIT_LAYERS = {
    "x_embedder.proj": "patch_embed.proj",
    "t_embedder.mlp.0": "time_embed.timestep_embedder.linear_1",
    "t_embedder.mlp.2": "time_embed.timestep_embedder.linear_2",
    "t5_y_embedder.to_kv": "time_embed.pooler.to_kv",
    "t5_y_embedder.to_q": "time_embed.pooler.to_q",
    "t5_y_embedder.to_out": "time_embed.pooler.to_out",
    "t5_yproj": "time_embed.caption_proj",
    "final_layer.linear": "proj_out",
}
BLOCK_LAYERS = {
    "mod_x": "norm1.linear",
    "attn.q_norm_x": "attn1.norm_q",
    "attn.k_norm_x": "attn1.norm_k",
    "attn.q_norm_y": "attn1.norm_added_q",
    "attn.k_norm_y": "attn1.norm_added_k",
    "attn.proj_x": "attn1.to_out.0",
    "attn.proj_y": "attn1.to_add_out",
    "mlp_x.w2": "ff.net.2",
    "mlp_y.w2": "ff_context.net.2",
}
# diffusers computes `a * silu(b)` where the published model computes `silu(a) * b`.
BLOCK_SWAPPED = {"mlp_x.w1": "ff.net.0.proj", "mlp_y.w1": "ff_context.net.0.proj"}


def dit_sources(depth: int) -> Sources:
    """Where the layers of an AsymmDiT of that many blocks are."""
    sources = {ours: Source((theirs,)) for ours, theirs in DIT_LAYERS.items()}
    sources["final_layer.mod"] = Source(("norm_out.linear",), swapped=True)
    for i in range(depth):
        ours, theirs, last = f"blocks.{i}", f"transformer_blocks.{i}", i == depth - 1
        for layers, swapped in ((BLOCK_LAYERS, False), (BLOCK_SWAPPED, True)):
            sources |= {f"{ours}.{a}": Source((f"{theirs}.{b}",), swapped) for a, b in layers.items()}
        # The last block's text only enters its attention.
        sources[f"{ours}.mod_y"] = Source((f"{theirs}.norm1_context.linear{'_1' if last else ''}",))
        sources[f"{ours}.attn.qkv_x"] = Source(tuple(f"{theirs}.attn1.to_{letter}" for letter in "qkv"))
        sources[f"{ours}.attn.qkv_y"] = Source(tuple(f"{theirs}.attn1.add_{letter}_proj" for letter in "qkv"))
    return sources


def _res_block(ours: str, theirs: str, index: int) -> Sources:
    """A residual block, and the attention that diffusers keeps beside it."""
    block, attention = f"{theirs}.resnets.{index}", f"{theirs}.attentions.{index}"
    return {
        f"{ours}.stack.0": Source((f"{block}.norm1.norm_layer",)),
        f"{ours}.stack.2": Source((f"{block}.conv1.conv",)),
        f"{ours}.stack.3": Source((f"{block}.norm2.norm_layer",)),
        f"{ours}.stack.5": Source((f"{block}.conv2.conv",)),
        f"{ours}.attn_block.norm": Source((f"{theirs}.norms.{index}.norm_layer",)),
        f"{ours}.attn_block.attn.qkv": Source(tuple(f"{attention}.to_{letter}" for letter in "qkv")),
        f"{ours}.attn_block.attn.out": Source((f"{attention}.to_out.0",)),
    }


def _res_blocks(names: Sequence[str], theirs: str, ours: str, first: int = 0) -> Sources:
    """All residual blocks of a stage, as many as there are names for. first: the number of our first one."""
    sources: Sources = {}
    for i in range(_count(names, rf"{re.escape(theirs)}\.resnets\.(\d+)\.")):
        sources |= _res_block(f"{ours}.{first + i}", theirs, i)
    return sources


def decoder_sources(theirs: Iterable[str]) -> Sources:
    """Where the layers of a decoder are. Its sizes follow from the names of their tensors, without `decoder.`."""
    theirs = tuple(theirs)
    stages = _count(theirs, r"up_blocks\.(\d+)\.")
    sources = {"blocks.0.0": Source(("conv_in",)), "output_proj": Source(("proj_out",))}
    sources |= _res_blocks(theirs, "block_in", "blocks.0", 1)
    for stage in range(stages):
        sources |= _res_blocks(theirs, f"up_blocks.{stage}", f"blocks.{stage + 1}.blocks")
        sources[f"blocks.{stage + 1}.proj"] = Source((f"up_blocks.{stage}.proj",))
    return sources | _res_blocks(theirs, "block_out", f"blocks.{stages + 1}")


def encoder_sources(theirs: Iterable[str]) -> Sources:
    """Where the layers of an encoder are. Its sizes follow from the names of their tensors, without `encoder.`."""
    theirs = tuple(theirs)
    stages, first = _count(theirs, r"down_blocks\.(\d+)\."), 1 + _count(theirs, r"block_in\.resnets\.(\d+)\.")
    sources = {
        "layers.0": Source(("proj_in",)),
        "output_norm": Source(("norm_out.norm_layer",)),
        "output_proj": Source(("proj_out",)),
    }
    sources |= _res_blocks(theirs, "block_in", "layers", 1)
    for stage in range(stages):
        ours = f"layers.{first + stage}.layers"
        sources[f"{ours}.0"] = Source((f"down_blocks.{stage}.conv_in.conv",))
        sources |= _res_blocks(theirs, f"down_blocks.{stage}", ours, 1)
    return sources | _res_blocks(theirs, "block_out", "layers", first + stages)


def _count(names: Sequence[str], pattern: str) -> int:
    return len({m[1] for name in names if (m := re.match(pattern, name))})


def translated(entries: LazyTensors, sources: Sources) -> LazyTensors:
    """The tensors under our names. A tensor that is none of ours keeps its name, so that a check reports it."""
    left = dict(entries)
    found: LazyTensors = {}
    for ours, source in sources.items():
        for kind in ("weight", "bias"):
            names = [f"{theirs}.{kind}" for theirs in source.layers]
            if all(name in left for name in names):
                found[f"{ours}.{kind}"] = _joined(names, [left.pop(name) for name in names], source.swapped)
    return found | left


def _joined(names: Sequence[str], tensors: Sequence[LazyTensor], swapped: bool) -> LazyTensor:
    if len(tensors) == 1 and not swapped:
        return tensors[0]
    shapes = [list(tensor.shape) for tensor in tensors]
    if not all(shapes) or any(shape[1:] != shapes[0][1:] for shape in shapes):
        raise ValueError(f"{', '.join(names)} should be rows of one weight, but are {shapes}")
    if swapped:
        tensor, rows = tensors[0], tensors[0].shape[0]
        return joined((Piece(tensor, rows // 2, rows), Piece(tensor, 0, rows // 2)))
    return joined([Piece(tensor, 0, tensor.shape[0]) for tensor in tensors])


def parts(tensors: LazyTensors) -> Parts:
    """The networks in a file, or nothing when the layout is another. Raises ValueError on parts of a weight that do not
    go together."""
    found: Parts = {}
    if all(name in tensors for name in DIT):
        depth = _count(tuple(tensors), r"transformer_blocks\.(\d+)\.")
        found["dit"] = translated(tensors, dit_sources(depth))
    for part, signature, sources in (("decoder", DECODER, decoder_sources), ("encoder", ENCODER, encoder_sources)):
        if all(name in tensors for name in signature):
            entries = under(f"{part}.", tensors)
            found[part] = translated(entries, sources(entries))
    return found
