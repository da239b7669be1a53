"""The file of a LoRA, in the published layout or that of diffusers, and a LoRA that begins as such a file.

alpha / rank is multiplied into the factors B, and alpha is written as the rank: what every program adds to a weight is
B @ A, also one that looks for alpha elsewhere or nowhere. ComfyUI reads it from tensors beside the factors only, which
diffusers refuses; the published code from settings that know no MLPs.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..checkpoint.layouts.diffusers import dit_sources
from ..errors import MochiError, first_few
from ..lora import LoraPatch, read_lora, swap_halves
from ..lora.names import depth_of
from ..lora.patch import AdapterPatch
from ..video.paths import check_path, temporary_beside
from .files import write_tensors
from .job import Format
from .lora import ATTENTION, MLP, LoraLinear
from .settings import Rank

Factors = tuple[Tensor, Tensor]
"""A (rank, columns) and B (rows, rank)."""

PREFIX = "transformer."
"""Of names and settings in a file of diffusers."""

ADVICE = "set the ranks for attention and for MLPs as they were when it was made"


def save_lora(
    path: Path,
    layers: Mapping[str, Factors],
    attention: Rank,
    mlp: Rank,
    format: Format = "published",
    metadata: Mapping[str, str] = {},
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write a LoRA, whole or not at all. A file that is there is replaced.

    Args:
        layers: the factors by the published names of their layers, such as `blocks.0.attn.qkv_x`.
        attention, mlp: the sizes of the LoRAs on the two kinds of layers.
        format: "published", which the published code, ComfyUI and this project read; or "diffusers", which diffusers,
            ComfyUI with this project's nodes, and this project read. The published code leaves MLPs out.
        metadata: what else the file says of itself.
        dtype: of the factors.

    Raises MochiError where the file cannot be written.
    """
    folded = {
        name: (down.detach(), up.detach() * (mlp if is_mlp(name) else attention).scale)
        for name, (down, up) in layers.items()
    }
    if format == "published":
        tensors, settings = _published(folded), _published_settings(attention)
    else:
        tensors, settings = _diffusers(folded), _diffusers_settings(attention, mlp)
    # A file of safetensors has no factor twice under two names: each is a copy.
    stored = {name: t.to("cpu", dtype, copy=True) for name, t in tensors.items()}
    write_tensors(path, stored, {**metadata, "format": "pt", **settings}, "the LoRA")


def check_output(path: Path) -> None:
    """Raise MochiError now if a LoRA could not be written there later. Folders on the way need not exist yet."""
    check_path(path, temporary_beside(path))
    if path.is_dir():
        raise MochiError(f"{path}: there is already a folder of that name; choose another name")


def is_mlp(layer: str) -> bool:
    """Whether a layer that can have a LoRA is of an MLP."""
    return layer.endswith(MLP)


def _published(layers: Mapping[str, Factors]) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for name, (down, up) in layers.items():
        tensors |= {f"{name}.lora_A": down, f"{name}.lora_B": up}
        if is_mlp(name):  # of which the settings say nothing
            tensors[f"{name}.alpha"] = torch.tensor(float(len(down)))
    return tensors


def _published_settings(attention: Rank) -> dict[str, str]:
    """The published network takes them as arguments, and takes no others."""
    kwargs = {f"{kind}_proj_lora_{what}": attention.rank for kind in ("qkv", "out") for what in ("rank", "alpha")}
    return {"kwargs": json.dumps(kwargs)}


def _diffusers(layers: Mapping[str, Factors]) -> dict[str, Tensor]:
    """A layer of ours that is several of theirs is cut; each has the whole A."""
    tensors: dict[str, Tensor] = {}
    sources = dit_sources(depth_of(layers))
    for name, (down, up) in layers.items():
        theirs, swapped = sources[name]
        parts = (swap_halves(up) if swapped else up).chunk(len(theirs))
        for their, part in zip(theirs, parts, strict=True):
            tensors |= {f"{PREFIX}{their}.lora_A.weight": down, f"{PREFIX}{their}.lora_B.weight": part}
    return tensors


def _diffusers_settings(attention: Rank, mlp: Rank) -> dict[str, str]:
    """PEFT's LoraConfig, as `save_lora_weights` of their pipelines writes it."""
    ranks = {
        layer: size.rank
        for size, kinds in ((attention, ATTENTION), (mlp, MLP))
        for layer in _their_layers(kinds)
        if size.rank
    }
    usual = attention.rank or mlp.rank
    others = {layer: rank for layer, rank in ranks.items() if rank != usual}
    config = {"r": usual, "lora_alpha": usual, "rank_pattern": others, "alpha_pattern": others}
    config |= {"peft_type": "LORA", "target_modules": list(ranks)}
    return {"lora_adapter_metadata": json.dumps({PREFIX + name: value for name, value in config.items()})}


def _their_layers(kinds: tuple[str, ...]) -> list[str]:
    """The ends of diffusers' names for some layers of a block."""
    sources = dit_sources(1)
    return [theirs.split(".", 2)[2] for kind in kinds for theirs in sources[f"blocks.0.{kind}"].layers]


def load_start(path: Path, layers: Mapping[str, LoraLinear]) -> None:
    """Give a LoRA that is trained the factors of a file, in whatever format and at whatever scale they are there.

    Args:
        path: a file that `read_lora` reads.
        layers: by their published names.

    Raises MochiError, and changes nothing, where the file is not of these layers and their ranks.
    """
    lora = read_lora(path)
    found = {name.removesuffix(".weight"): name for name in lora.patches}
    if strange := found.keys() - layers.keys():
        raise MochiError(f"{path}: has a LoRA for {first_few(strange)}, which is not trained here; {ADVICE}")
    if missing := layers.keys() - found.keys():
        raise MochiError(f"{path}: has no LoRA for {first_few(missing)}, which is trained here; {ADVICE}")
    lora = lora.fitted({found[name]: (len(layer.lora_B), layer.lora_A.shape[1]) for name, layer in layers.items()})
    factors = {name: _joined(path, lora.patches[found[name]], name, layer) for name, layer in layers.items()}
    with torch.no_grad():
        for name, layer in layers.items():
            for own, value in zip((layer.lora_A, layer.lora_B), factors[name], strict=True):
                own.copy_(value)


def _joined(path: Path, patches: Sequence[AdapterPatch], name: str, layer: LoraLinear) -> Factors:
    """The factors whose product at the layer's scale is what the patches add. Parts of its rows can share an A."""
    loras = [patch for patch in patches if type(patch) is LoraPatch]
    if len(loras) < len(patches):
        raise MochiError(f"{path}: is a DoRA or has whole differences, for {name}; begin with a LoRA of two factors")
    rows, rank = layer.lora_B.shape
    blocks: list[Factors] = []

    def block_of(down: Tensor) -> Factors:
        """Of the layer's factors, with all rows of B: that of an A."""
        for block in blocks:
            if torch.equal(block[0], down):
                return block
        blocks.append((down, torch.zeros(rows, len(down))))
        return blocks[-1]

    for patch in loras:
        _, up = block_of(patch.down.float())
        up[patch.start or 0 :][: len(patch.up)] += patch.up.float() * (patch.scale / layer.scale)
    down, up = torch.cat([down for down, _ in blocks]), torch.cat([up for _, up in blocks], dim=1)
    if len(down) != rank:
        found = f"its LoRA for {name} has the rank {len(down)}"
        raise MochiError(f"{path}: {found}, but {rank} is to be trained; set the rank to {len(down)}")
    return down, up
