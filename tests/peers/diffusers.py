"""The networks of the diffusers library with the weights of ours."""

import torch
from diffusers import AutoencoderKLMochi, MochiTransformer3DModel
from torch import Tensor

from mochi.config import DiTConfig, EncoderConfig
from mochi.dit import AsymmDiT
from mochi.vae import Decoder, Encoder

State = dict[str, Tensor]

DIT_NAMES = {
    "x_embedder.proj": "patch_embed.proj",
    "t_embedder.mlp.0": "time_embed.timestep_embedder.linear_1",
    "t_embedder.mlp.2": "time_embed.timestep_embedder.linear_2",
    "t5_y_embedder": "time_embed.pooler",
    "t5_yproj": "time_embed.caption_proj",
    "final_layer.linear": "proj_out",
    "blocks.": "transformer_blocks.",
    ".mod_x.": ".norm1.linear.",
    ".mod_y.": ".norm1_context.linear.",
    ".attn.": ".attn1.",
    ".q_norm_x": ".norm_q",
    ".k_norm_x": ".norm_k",
    ".q_norm_y": ".norm_added_q",
    ".k_norm_y": ".norm_added_k",
    ".proj_x": ".to_out.0",
    ".proj_y": ".to_add_out",
    ".mlp_x.w1": ".ff.net.0.proj",
    ".mlp_x.w2": ".ff.net.2",
    ".mlp_y.w1": ".ff_context.net.0.proj",
    ".mlp_y.w2": ".ff_context.net.2",
}


def _renamed(name: str, table: dict[str, str]) -> str:
    for ours, theirs in table.items():
        name = name.replace(ours, theirs)
    return name


def diffusers_dit(ours: AsymmDiT) -> MochiTransformer3DModel:
    """MochiTransformer3DModel with our weights: q, k, v apart, (gate, value) and (scale, shift) swapped."""
    config: DiTConfig = ours.config
    theirs = MochiTransformer3DModel(
        patch_size=config.patch_size,
        num_attention_heads=config.num_heads,
        attention_head_dim=config.head_dim,
        num_layers=config.depth,
        pooled_projection_dim=config.hidden_y,
        in_channels=config.channels,
        text_embed_dim=config.text_width,
    )
    state: State = {}
    for name, value in ours.state_dict().items():
        if ".attn.qkv_" in name:
            block, stream = name.split(".attn.qkv_")
            pattern = "to_{}" if stream.startswith("x") else "add_{}_proj"
            for letter, part in zip("qkv", value.chunk(3), strict=True):
                key = f"{block}.attn1.{pattern.format(letter)}.weight"
                state[key.replace("blocks.", "transformer_blocks.", 1)] = part
            continue
        key = _renamed(name, DIT_NAMES)
        if name.endswith("w1.weight"):
            value = torch.cat(value.chunk(2)[::-1])
        if name.startswith("final_layer.mod"):
            key, value = name.replace("final_layer.mod", "norm_out.linear"), torch.cat(value.chunk(2)[::-1])
        if name.startswith(f"blocks.{config.depth - 1}.mod_y"):
            key = key.replace(".linear.", ".linear_1.")
        state[key] = value
    theirs.load_state_dict(state)
    return theirs.eval()


def _res_block(state: State, ours: str, parent: str, index: int, entries: State) -> None:
    """One residual block, with the attention that diffusers keeps beside it."""
    for layer, theirs in {
        "0": "norm1.norm_layer",
        "2": "conv1.conv",
        "3": "norm2.norm_layer",
        "5": "conv2.conv",
    }.items():
        for kind in ("weight", "bias"):
            state[f"{parent}.resnets.{index}.{theirs}.{kind}"] = entries[f"{ours}.stack.{layer}.{kind}"]
    attention = f"{ours}.attn_block"
    if f"{attention}.norm.weight" in entries:
        for kind in ("weight", "bias"):
            state[f"{parent}.norms.{index}.norm_layer.{kind}"] = entries[f"{attention}.norm.{kind}"]
            state[f"{parent}.attentions.{index}.to_out.0.{kind}"] = entries[f"{attention}.attn.out.{kind}"]
        for letter, part in zip("qkv", entries[f"{attention}.attn.qkv.weight"].chunk(3), strict=True):
            state[f"{parent}.attentions.{index}.to_{letter}.weight"] = part


def _copy(state: State, theirs: str, ours: str, entries: State) -> None:
    for kind in ("weight", "bias"):
        if f"{ours}.{kind}" in entries:
            state[f"{theirs}.{kind}"] = entries[f"{ours}.{kind}"]


def diffusers_vae(decoder: Decoder, encoder: Encoder) -> AutoencoderKLMochi:
    """AutoencoderKLMochi with our weights, and with the published rule for the first frames.

    The published decoder drops the `t - 1` empty frames of an expansion after each stage, so that nothing
    behind computes with them; diffusers drops them all at the end, which changes the first frames.
    A hook makes it drop them where the published decoder does.
    """
    config: EncoderConfig = encoder.config
    theirs = AutoencoderKLMochi(
        encoder_block_out_channels=config.widths,
        decoder_block_out_channels=decoder.config.widths,
        layers_per_block=config.res_blocks,
        temporal_expansions=config.temporal,
        spatial_expansions=config.spatial,
        add_attention_block=config.attention,
        latent_channels=config.latent_channels,
    )
    state: State = {}
    stages = len(config.temporal)
    e, d = encoder.state_dict(), decoder.state_dict()
    _copy(state, "encoder.proj_in", "layers.0", e)
    for i in range(config.res_blocks[0]):
        _res_block(state, f"layers.{1 + i}", "encoder.block_in", i, e)
    first = 1 + config.res_blocks[0]
    for s in range(stages):
        _copy(state, f"encoder.down_blocks.{s}.conv_in.conv", f"layers.{first + s}.layers.0", e)
        for i in range(config.res_blocks[s + 1]):
            _res_block(state, f"layers.{first + s}.layers.{1 + i}", f"encoder.down_blocks.{s}", i, e)
    for i in range(config.res_blocks[-1]):
        _res_block(state, f"layers.{first + stages + i}", "encoder.block_out", i, e)
    _copy(state, "encoder.norm_out.norm_layer", "output_norm", e)
    _copy(state, "encoder.proj_out", "output_proj", e)

    _copy(state, "decoder.conv_in", "blocks.0.0", d)
    for i in range(config.res_blocks[-1]):
        _res_block(state, f"blocks.0.{1 + i}", "decoder.block_in", i, d)
    for s in range(stages):
        for i in range(config.res_blocks[stages - s]):
            _res_block(state, f"blocks.{1 + s}.blocks.{i}", f"decoder.up_blocks.{s}", i, d)
        _copy(state, f"decoder.up_blocks.{s}.proj", f"blocks.{1 + s}.proj", d)
    for i in range(config.res_blocks[0]):
        _res_block(state, f"blocks.{1 + stages}.{i}", "decoder.block_out", i, d)
    _copy(state, "decoder.proj_out", "output_proj", d)
    theirs.load_state_dict(state)
    theirs.drop_last_temporal_frames = False
    for block in theirs.decoder.up_blocks:
        block.register_forward_hook(lambda block, _, out: (out[0][:, :, block.temporal_expansion - 1 :], out[1]))
    return theirs.eval()
