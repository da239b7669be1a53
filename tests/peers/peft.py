"""A LoRA of ours on the network of the diffusers library, by the peft library."""

from collections.abc import Mapping

import torch
from diffusers import MochiTransformer3DModel
from peft import LoraConfig
from torch import Tensor, nn

from mochi.train.lora import LoraLinear

LAYERS = {
    "attn.qkv_x": ("attn1.to_q", "attn1.to_k", "attn1.to_v"),
    "attn.qkv_y": ("attn1.add_q_proj", "attn1.add_k_proj", "attn1.add_v_proj"),
    "attn.proj_x": ("attn1.to_out.0",),
    "attn.proj_y": ("attn1.to_add_out",),
    "mlp_x.w1": ("ff.net.0.proj",),
    "mlp_x.w2": ("ff.net.2",),
    "mlp_y.w1": ("ff_context.net.0.proj",),
    "mlp_y.w2": ("ff_context.net.2",),
}
"""Our layers -> theirs. Of q, k and v, which are one layer of ours, each has the same A and its part of B. The gate and
the value of w1 are the other way round."""


def add_peft_lora(theirs: MochiTransformer3DModel, ours: Mapping[str, LoraLinear]) -> None:
    """The same LoRA on theirs. All of ours have one rank and one scale."""
    layer = next(iter(ours.values()))
    kinds = {name.split(".", 2)[2] for name in ours}
    rank = len(layer.lora_A)
    theirs.add_adapter(
        LoraConfig(
            r=rank,
            lora_alpha=layer.scale * rank,
            lora_dropout=layer.dropout,
            target_modules=[target for kind in kinds for target in LAYERS[kind]],
        )
    )
    with torch.no_grad():
        for name, layer in ours.items():
            targets = _targets(theirs, name)
            for (down, up), part in zip(targets, _turned(name, layer.lora_B).chunk(len(targets)), strict=True):
                down.copy_(layer.lora_A)
                up.copy_(part)


def gradients(theirs: MochiTransformer3DModel, names: Mapping[str, LoraLinear]) -> dict[str, Tensor]:
    """Those of its LoRA as ours has them, by the names of our parameters."""
    found = {}
    for name in names:
        of_down, of_up = zip(*((down.grad, up.grad) for down, up in _targets(theirs, name)), strict=True)
        found[f"{name}.lora_A"] = sum(of_down)  # q, k and v share it
        found[f"{name}.lora_B"] = _turned(name, torch.cat(of_up))
    return found


def _targets(theirs: MochiTransformer3DModel, name: str) -> list[tuple[nn.Parameter, nn.Parameter]]:
    _, number, kind = name.split(".", 2)
    layers = [theirs.get_submodule(f"transformer_blocks.{number}.{target}") for target in LAYERS[kind]]
    return [(layer.lora_A["default"].weight, layer.lora_B["default"].weight) for layer in layers]


def _turned(name: str, up: Tensor) -> Tensor:
    return torch.cat(up.chunk(2)[::-1]) if name.endswith("w1") else up
