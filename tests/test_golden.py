"""The comparison with recorded tensors: it passes on what the model computes, and fails on anything else.

What has a noise level for each frame is recorded from the plain formula, one frame after the other.
"""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from mochi.config import PREVIEW, DecoderConfig, DiTConfig, EncoderConfig
from mochi.dit import AsymmDiT
from mochi.sampling import guided, linear_quadratic, per_step_cfg, sample
from mochi.vae import Decoder, Encoder, to_vae
from tests.golden import BOUNDS, main
from tests.peers.plain import plain_dit
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


@pytest.fixture(scope="module")
@torch.inference_mode()
def with_levels(recorded) -> dict[str, torch.Tensor]:
    """Its last frame is given, and a little noise with it."""
    model = AsymmDiT(DIT)
    model.load_state_dict({k.removeprefix("dit.weights."): v for k, v in recorded.items() if "dit.weights." in k})
    z, text, mask = recorded["dit.z"], recorded["dit.text"], recorded["dit.text_mask"].bool()
    sigma, multipliers = torch.tensor([[0.9, 0.2]]), torch.tensor([[1.0, 0.3]])
    condition = torch.randn(1, 12, 1, 4, 4, generator=torch.Generator().manual_seed(4))
    frames = [z[:, :, :1], 0.7 * condition + 0.3 * z[:, :, 1:]]
    levels = recorded["sampler.sigmas"].float()
    for i in range(len(levels) - 1):
        now = torch.cat(frames, 2), levels[i] * multipliers, text
        cond, uncond = plain_dit(model, *now, mask), plain_dit(model, *now, mask & False)
        flow = uncond + 3.0 * (cond - uncond)
        for frame, multiplier in enumerate(multipliers[0]):
            step = (levels[i] - levels[i + 1]) * multiplier
            frames[frame] = frames[frame] + step * flow[:, :, frame : frame + 1]
    return {
        "frame_sigma.sigma": sigma,
        "frame_sigma.out": plain_dit(model, z, sigma, text, mask),
        "frame_sigma.out_empty_prompt": plain_dit(model, z, sigma, text, mask & False),
        "run.frame": torch.tensor([1]),
        "run.noise_multiplier": torch.tensor([0.3]),
        "run.condition": condition,
        "run.latents_dit": torch.cat(frames, 2),
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
LEVEL_OUTPUTS = {
    "frame_sigma": "frame_sigma.out",
    "frame_sigma_empty_prompt": "frame_sigma.out_empty_prompt",
    "frame_sigma_run": "run.latents_dit",
}
METADATA = {"steps": json.dumps(4), "threshold_noise": json.dumps(0.025), "cfg_scale": json.dumps(3.0)}


LEVEL_METADATA = {"weights_in": "golden.safetensors", "cfg_scale": json.dumps(3.0)}


def written(folder: Path, recorded: dict[str, torch.Tensor], with_levels: dict[str, torch.Tensor]) -> list[str]:
    """The two files, of which the second one has its weights and inputs in the first."""
    paths = [folder / "golden.safetensors", folder / "golden_frame_sigma.safetensors"]
    for path, tensors, metadata in zip(paths, (recorded, with_levels), (METADATA, LEVEL_METADATA), strict=True):
        save_file(tensors, path, metadata)
    return list(map(str, paths))


def test_prints_every_part_and_passes(recorded, with_levels, tmp_path, capsys):
    assert main(written(tmp_path, recorded, with_levels)) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [part for part, _ in lines] == list(BOUNDS)
    assert all(float(error) <= BOUNDS[part] for part, error in lines)


@pytest.mark.parametrize("part", [*OUTPUTS, *LEVEL_OUTPUTS])
def test_fails_over_the_bound(recorded, with_levels, tmp_path, capsys, part):
    def spoilt(tensors: dict[str, torch.Tensor], name: str | None) -> dict[str, torch.Tensor]:
        return {key: value * (1 + 1e-4) if key == name else value for key, value in tensors.items()}

    paths = written(tmp_path, spoilt(recorded, OUTPUTS.get(part)), spoilt(with_levels, LEVEL_OUTPUTS.get(part)))
    assert main(paths[part in LEVEL_OUTPUTS :][:1]) == 1
    over = [line for line in capsys.readouterr().out.splitlines() if "OVER THE BOUND" in line]
    assert len(over) == 1 and over[0].startswith(f"{part} ")
