"""The networks of ComfyUI with the weights of ours, in this process."""

from __future__ import annotations

import sys
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from torch import nn

from scripts.comfyui import find_or_fetch_comfyui

if TYPE_CHECKING:  # inside a host, these modules have other names
    from mochi.config import DecoderConfig, EncoderConfig
    from mochi.dit import AsymmDiT
    from mochi.vae import Decoder, Encoder


@lru_cache(maxsize=1)
def comfyui(cpu: bool = True) -> Any:
    """ComfyUI's modules, set up for the CPU or for the GPU that it chooses. Its folder comes first on the path."""
    sys.path.insert(0, str(find_or_fetch_comfyui()))
    ours, sys.argv = sys.argv, ["main.py", *(["--cpu"] if cpu else [])]
    try:
        import comfy.options

        comfy.options.enable_args_parsing()
        import comfy.ldm.genmo.joint_model.asymm_models_joint
        import comfy.ldm.genmo.vae.model
        import comfy.ops
    finally:
        sys.argv = ours
    return comfy


def comfyui_dit(ours: AsymmDiT, cpu: bool = True) -> nn.Module:
    """ComfyUI's AsymmDiT with our weights, which have the same names; it makes `noise - x0` of sigma as it is."""
    config, host = ours.config, comfyui(cpu)
    room = host.ldm.genmo.joint_model.asymm_models_joint
    weights = {"dtype": ours.x_embedder.proj.weight.dtype, "device": "meta", "operations": host.ops.disable_weight_init}
    network = room.AsymmDiTJoint(
        depth=config.depth,
        patch_size=config.patch_size,
        num_heads=config.num_heads,
        hidden_size_x=config.hidden_x,
        hidden_size_y=config.hidden_y,
        mlp_ratio_x=12288 / config.hidden_x,  # it insists on this width, and gets the right one below
        mlp_ratio_y=4.0,
        in_channels=config.channels,
        qk_norm=True,
        qkv_bias=False,
        attn_drop=0.0,
        use_t5=True,
        t5_feat_dim=config.text_width,
        t5_token_length=config.text_length,
        learn_sigma=False,
        timestep_scale=1000.0,
        **weights,
    )
    for block in network.blocks:
        block.mlp_x = room.FeedForward(config.hidden_x, 4 * config.hidden_x, 256, None, **weights)
    network.load_state_dict(ours.state_dict(), assign=True)
    return network.eval()


def comfyui_decoder(ours: Decoder) -> nn.Module:
    """ComfyUI's Mochi decoder."""
    config: DecoderConfig = ours.config
    options = {
        "temporal_expansions": list(config.temporal),
        "spatial_expansions": list(config.spatial),
        "has_attention": [False] * len(config.res_blocks),
        "output_norm": False,
    }
    return _with_weights(comfyui().ldm.genmo.vae.model.Decoder, ours, options)


def comfyui_encoder(ours: Encoder) -> nn.Module:
    """ComfyUI's Mochi encoder. Its attention over time is not causal: with it, it computes something else."""
    config: EncoderConfig = ours.config
    options = {
        "in_channels": config.in_channels,
        "temporal_reductions": list(config.temporal),
        "spatial_reductions": list(config.spatial),
        "prune_bottlenecks": [False] * len(config.res_blocks),
        "has_attentions": list(config.attention),
        "affine": True,
        "bias": True,
        "input_is_conv_1x1": True,
    }
    return _with_weights(comfyui().ldm.genmo.vae.model.Encoder, ours, options)


def _with_weights(theirs: type[nn.Module], ours: Decoder | Encoder, options: dict[str, Any]) -> nn.Module:
    """Theirs in our sizes, with our weights, which have the same names."""
    network = theirs(
        latent_dim=ours.config.latent_channels,
        base_channels=ours.config.base,
        channel_multipliers=list(ours.config.multipliers),
        num_res_blocks=list(ours.config.res_blocks),
        padding_mode="replicate",
        **options,
    )
    network.load_state_dict(ours.state_dict())
    return network.eval()
