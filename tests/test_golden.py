"""The comparison with recorded tensors: it passes on what the model computes, and fails on anything else."""

import json

import pytest
import torch
from safetensors.torch import save_file

from mochi.config import PREVIEW, DecoderConfig, DiTConfig, EncoderConfig
from mochi.dit import AsymmDiT
from mochi.sampling import guided, linear_quadratic, per_step_cfg, sample
from mochi.vae import Decoder, Encoder, to_vae
from tests.golden import BOUNDS, main
from tests.random_weights import randomised

DIT = DiTConfig(depth=2, num_heads=2, hidden_x=32, hidden_y=16, mlp_x=64, mlp_y=32, text_width=32)
SIZES = {"base": 32, "multipliers": (1, 1, 1, 1), "res_blocks": (1, 1, 1, 1, 1)}


@pytest.fixture(scope="module")
@torch.inference_mode()
def recorded() -> dict[str, torch.Tensor]:
    networks = {
        "dit": randomised(AsymmDiT(DIT), 0),
        "decoder": randomised(Decoder(DecoderConfig(**SIZES)), 1),
        "encoder": randomised(Encoder(EncoderConfig(**SIZES)), 2),
    }
    tensors = {f"{n}.weights.{k}": v for n, net in networks.items() for k, v in net.state_dict().items()}
    dit, decoder, encoder = networks.values()
    generator = torch.Generator().manual_seed(3)
    z, text = torch.randn(1, 12, 2, 4, 4, generator=generator), torch.randn(1, 8, 32, generator=generator)
    mask, sigma = torch.tensor([[True] * 5 + [False] * 3]), torch.tensor([0.6])
    prompt, empty = dit.encode_text(text, mask), dit.encode_text(text, mask & False)
    video = torch.rand(1, 3, 7, 16, 16, generator=generator) * 2 - 1
    sigmas = linear_quadratic(4)
    flow = guided(lambda z, s: dit(z, s, prompt), lambda z, s: dit(z, s, empty), per_step_cfg(3.0, 4))
    latents = sample(flow, z, sigmas)
    return tensors | {
        "dit.z": z,
        "dit.sigma": sigma,
        "dit.text": text,
        "dit.text_mask": mask.to(torch.uint8),
        "dit.text_empty": text.clone(),
        "dit.out": dit(z, sigma, prompt),
        "dit.out_empty_prompt": dit(z, sigma, empty),
        "decoder.z": z.clone(),
        "decoder.out": decoder(z).contiguous(),
        "decoder.z_one_frame": z[:, :, :1].contiguous(),
        "decoder.out_one_frame": decoder(z[:, :, :1]).contiguous(),
        "encoder.video": video,
        "encoder.mean": encoder(video).mean.contiguous(),
        "encoder.logvar": encoder(video).logvar.contiguous(),
        "sampler.noise": z.clone(),
        "sampler.sigmas": torch.tensor(sigmas, dtype=torch.float64),
        "sampler.latents_dit": latents,
        "sampler.latents_vae": to_vae(latents, PREVIEW.latents),
    }


OUTPUTS = {
    "dit": "dit.out",
    "dit_empty_prompt": "dit.out_empty_prompt",
    "decoder": "decoder.out",
    "decoder_one_frame": "decoder.out_one_frame",
    "encoder_mean": "encoder.mean",
    "encoder_logvar": "encoder.logvar",
    "sampler": "sampler.latents_vae",
}
METADATA = {"steps": json.dumps(4), "threshold_noise": json.dumps(0.025), "cfg_scale": json.dumps(3.0)}


def test_prints_every_part_and_passes(recorded, tmp_path, capsys):
    save_file(recorded, tmp_path / "golden.safetensors", METADATA)
    assert main([str(tmp_path / "golden.safetensors")]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [part for part, _ in lines] == list(BOUNDS)
    assert all(float(error) <= BOUNDS[part] for part, error in lines)


@pytest.mark.parametrize("part", OUTPUTS)
def test_fails_over_the_bound(recorded, tmp_path, capsys, part):
    wrong = {name: value * (1 + 1e-4) if name == OUTPUTS[part] else value for name, value in recorded.items()}
    save_file(wrong, tmp_path / "golden.safetensors", METADATA)
    assert main([str(tmp_path / "golden.safetensors")]) == 1
    over = [line for line in capsys.readouterr().out.splitlines() if "OVER THE BOUND" in line]
    assert len(over) == 1 and over[0].startswith(f"{part} ")
