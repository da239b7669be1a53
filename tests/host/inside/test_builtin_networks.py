"""ComfyUI's own Mochi networks, filled with the same weights, compute the same, where their fixed sizes allow."""

import comfy.ops
import pytest
import torch
from comfy.ldm.genmo.joint_model.asymm_models_joint import AsymmDiTJoint
from exact import relative_error
from peers.comfyui import comfyui_decoder, comfyui_encoder


@pytest.mark.parametrize("tokens", [1, 40, 256])
@torch.inference_mode()
def test_dit(pack, tokens):
    small = pack.module("tests.host.inside.small")
    network, config = pack.module("nodes.host.sockets.network"), pack.module("mochi.config")
    # The built-in one insists on a visual MLP as wide as the published one.
    sizes = config.DiTConfig(depth=2, num_heads=4, hidden_x=96, hidden_y=48, mlp_x=8192, mlp_y=256, text_width=64)
    torch.manual_seed(tokens)
    ours = small.randomise(network.HostDiT(sizes, dtype=torch.float32))
    theirs = AsymmDiTJoint(
        depth=2,
        num_heads=4,
        hidden_size_x=96,
        hidden_size_y=48,
        patch_size=2,
        in_channels=12,
        mlp_ratio_x=12288 / 96,
        mlp_ratio_y=4.0,
        learn_sigma=False,
        qk_norm=True,
        qkv_bias=False,
        use_t5=True,
        t5_feat_dim=64,
        timestep_scale=1000.0,
        operations=comfy.ops.disable_weight_init,
        dtype=torch.float32,
    )
    theirs.load_state_dict(ours.state_dict(), strict=True)

    x, sigma = torch.randn(2, 12, 3, 6, 8), torch.tensor([0.9, 0.3])
    context, mask = torch.randn(2, 256, 64), torch.zeros(2, 256, dtype=torch.int64)
    mask[:, :tokens] = 1
    expected = theirs(x, sigma, context, mask, num_tokens=tokens)
    assert relative_error(ours(x, sigma, context, mask), expected) < 2e-6


@torch.inference_mode()
def test_decoder(pack):
    small, config, vae = (pack.module(name) for name in ("tests.host.inside.small", "mochi.config", "mochi.vae"))
    sizes = {"multipliers": (1, 2, 2, 4), "res_blocks": (1, 2, 1, 1, 1)}
    torch.manual_seed(0)
    ours = small.randomise(vae.Decoder(config.DecoderConfig(base=32, **sizes)))
    theirs = comfyui_decoder(ours)
    z = torch.randn(1, 12, 3, 4, 6)
    assert relative_error(ours(z), theirs(z.clone())) < 5e-6


# ComfyUI's attention over time is not causal, unlike the published one's: without it, or in one frame, all is equal.
@pytest.mark.parametrize(("frames", "attention"), [(13, False), (1, True)])
@torch.inference_mode()
def test_encoder(pack, frames, attention):
    small, config, vae = (pack.module(name) for name in ("tests.host.inside.small", "mochi.config", "mochi.vae"))
    stages = (False, *[attention] * 4)
    sizes = {"multipliers": (1, 2, 3, 4), "res_blocks": (1, 2, 1, 1, 1), "attention": stages}
    torch.manual_seed(0)
    ours = small.randomise(vae.Encoder(config.EncoderConfig(base=32, **sizes)))
    theirs = comfyui_encoder(ours)
    video = torch.rand(1, 3, frames, 32, 48) * 2 - 1
    assert relative_error(ours(video).mean, theirs(video).mode()) < 5e-6
