"""A toy denoiser that splits over 1, 2, 3, 4 and 6 ranks, and inputs and patches for it."""

import copy
from collections.abc import Collection
from typing import NamedTuple

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from mochi.config import DiTConfig
from mochi.dit import AsymmDiT
from mochi.lora import DiffPatch, DoraPatch, LoraPatch, ReplacePatch, WeightPatch
from tests.random_weights import randomised

NETWORK = randomised(
    AsymmDiT(DiTConfig(depth=3, num_heads=12, hidden_x=96, hidden_y=48, mlp_x=256, mlp_y=256, text_width=64)), 0
)


class Input(NamedTuple):
    """One forward pass, as Denoiser.predict takes it. sigma: (B,), or (B, T)."""

    z: Tensor
    sigma: Tensor
    features: Tensor
    mask: Tensor
    skip: tuple[int, ...] = ()

    def __repr__(self) -> str:
        levels = "levels of frames" if self.sigma.ndim == 2 else "one level"
        return f"latents {tuple(self.z.shape)}, {levels}, prompts of {self.prompts} tokens, without blocks {self.skip}"

    @property
    def prompts(self) -> list[int]:
        return self.mask.sum(1).tolist()


@st.composite
def steps(draw: st.DrawFn) -> list[Input]:
    """The passes of a step: latents of one shape, other prompts in each; with a level for each frame or one for all.

    Any of them may leave blocks out.
    """
    batch, frames = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    rows, columns = draw(st.integers(1, 4)), draw(st.integers(1, 5))
    lengths = st.lists(st.sampled_from([0, 1, 17, 256]), min_size=batch, max_size=batch)
    passes = draw(st.lists(lengths, min_size=1, max_size=3))
    levels = (batch, frames) if draw(st.booleans()) else (batch,)
    skips = st.sampled_from([(), (), (0,), (1,), (0, 2)])
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    return [
        Input(
            z=torch.randn(batch, 12, frames, 2 * rows, 2 * columns, generator=generator),
            sigma=torch.rand(levels, generator=generator),
            features=torch.randn(batch, 256, NETWORK.config.text_width, generator=generator),
            mask=torch.arange(256) < torch.tensor(prompts)[:, None],
            skip=draw(skips),
        )
        for prompts in passes
    ]


@torch.inference_mode()
def predicted(network: AsymmDiT, passes: list[Input]) -> list[Tensor]:
    """What one device makes of the passes."""
    return [lacking(network, one.skip)(one.z, one.sigma, network.encode_text(one.features, one.mask)) for one in passes]


def lacking(network: AsymmDiT, layers: Collection[int]) -> AsymmDiT:
    """A network with the same weights but without some blocks."""
    if not layers:
        return network
    fewer = copy.copy(network)
    fewer._modules = dict(network._modules)
    fewer.blocks = nn.ModuleList(block for i, block in enumerate(network.blocks) if i not in layers)
    return fewer


Patches = dict[str, list[WeightPatch]]


@st.composite
def patch_sets(draw: st.DrawFn) -> Patches:
    """One or two patches on each of a few parameters."""
    shapes = {name: tuple(p.shape) for name, p in NETWORK.named_parameters()}
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))

    def lora(shape: tuple[int, ...]) -> WeightPatch:
        rank, columns = draw(st.integers(1, 3)), torch.Size(shape[1:]).numel()
        up = 0.1 * torch.randn(shape[0], rank, generator=generator)
        down = 0.1 * torch.randn(rank, columns, generator=generator)
        return LoraPatch(up, down, draw(st.floats(-2, 2)), base_scale=draw(st.sampled_from([1.0, 0.5])))

    def whole(shape: tuple[int, ...]) -> WeightPatch:
        return ReplacePatch(0.1 * torch.randn(shape, generator=generator))

    def difference(shape: tuple[int, ...]) -> WeightPatch:
        start = draw(st.integers(0, shape[0] - 1))
        return DiffPatch(0.1 * torch.randn(shape[0] - start, *shape[1:], generator=generator), 0.5, start)

    def dora(shape: tuple[int, ...]) -> WeightPatch:
        up = 0.1 * torch.randn(shape[0], 2, generator=generator)
        down = 0.1 * torch.randn(2, torch.Size(shape[1:]).numel(), generator=generator)
        size = draw(st.sampled_from([(shape[0], 1), (1, shape[1])]))
        return DoraPatch(
            up,
            down,
            0.5,
            magnitude=torch.rand(size, generator=generator),
            norm_of_sum=draw(st.booleans()),
            strength=0.7,
        )

    names = draw(st.sets(st.sampled_from(sorted(shapes)), max_size=8))
    of_matrices = st.lists(st.sampled_from([lora, lora, whole, difference, dora]), min_size=1, max_size=2)
    of_vectors = st.lists(st.sampled_from([lora, whole, difference]), min_size=1, max_size=2)
    return {
        name: [kind(shapes[name]) for kind in draw(of_matrices if len(shapes[name]) > 1 else of_vectors)]
        for name in sorted(names)
    }


def patched_weight(w: Tensor, patches: list[WeightPatch]) -> Tensor:
    """A whole weight with its patches, in float32."""
    for patch in patches:
        if isinstance(patch, ReplacePatch):
            w = patch.weight
        elif isinstance(patch, DiffPatch):
            w = w.clone()
            w[patch.start :] += patch.scale * patch.diff
        elif isinstance(patch, DoraPatch):
            w = w + patch.strength * (_dora(w, patch) - w)
        else:
            w = patch.base_scale * w + patch.scale * (patch.up @ patch.down).reshape(w.shape)
    return w


def _dora(w: Tensor, patch: DoraPatch) -> Tensor:
    total = w + patch.scale * (patch.up @ patch.down).reshape(w.shape)
    columns = patch.magnitude.shape[0] == 1
    norm = (total if columns or patch.norm_of_sum else w).movedim(1 if columns else 0, -1).flatten(0, -2).norm(dim=0)
    return (total.movedim(1 if columns else 0, -1) * (patch.magnitude.flatten() / norm)).movedim(
        -1, 1 if columns else 0
    )


def patched_network(patches: Patches) -> AsymmDiT:
    """NETWORK with patches on its whole weights."""
    network = copy.deepcopy(NETWORK)
    with torch.no_grad():
        for name, p in network.named_parameters():
            p.copy_(patched_weight(p, patches.get(name, [])))
    return network
