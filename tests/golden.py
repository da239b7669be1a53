"""Compare with recorded tensors of the published implementation: `python -m tests.golden FILE...`.

A file holds small random weights, inputs and float32 outputs of every part, of any configuration; or outputs of a
network whose frames have noise levels of their own, and the name of the file, beside it, that has the rest.
Prints `part relative-error` (2-norm) for each; exits with 1 when an error is over its bound.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from mochi.checkpoint import Checkpoint
from mochi.checkpoint.infer import decoder_config, dit_config, encoder_config
from mochi.checkpoint.layouts.genmo import under
from mochi.config import PREVIEW
from mochi.dit import AsymmDiT, TextContext
from mochi.sampling import Given, guided, linear_quadratic, per_step_cfg, sample
from mochi.vae import Decoder, Encoder, to_vae
from tests.exact import relative_error

BOUNDS = {
    "dit": 2e-6,
    "dit_empty_prompt": 2e-6,
    "decoder": 5e-6,
    "decoder_one_frame": 5e-6,
    "encoder_mean": 5e-6,
    "encoder_logvar": 5e-6,
    "sampler": 1e-5,
    "frame_sigma": 2e-6,
    "frame_sigma_empty_prompt": 2e-6,
    "frame_sigma_run": 1e-5,
}


def filled(network: nn.Module, file: Checkpoint, prefix: str) -> nn.Module:
    """The network with the weights that stand under a prefix, all of them and no others."""
    network.load_state_dict({name: entry.read() for name, entry in under(prefix, file.tensors).items()})
    return network.eval()


@torch.inference_mode()
def compare(path: Path) -> Iterator[tuple[str, float]]:
    """Yields (part, relative error) for each part recorded in the file."""
    file = Checkpoint.open(path)

    def get(name: str) -> Tensor:
        return file.tensors[name].read()

    if "weights_in" in file.metadata:
        yield from compare_frame_sigma(file, Checkpoint.open(path.with_name(file.metadata["weights_in"])))
        return
    dit, text, nothing = network_and_prompts(file)
    yield "dit", relative_error(dit(get("dit.z"), get("dit.sigma"), text), get("dit.out"))
    yield "dit_empty_prompt", relative_error(dit(get("dit.z"), get("dit.sigma"), nothing), get("dit.out_empty_prompt"))

    decoder = filled(Decoder(decoder_config(under("decoder.weights.", file.tensors), {})), file, "decoder.weights.")
    yield "decoder", relative_error(decoder(get("decoder.z")), get("decoder.out"))
    yield "decoder_one_frame", relative_error(decoder(get("decoder.z_one_frame")), get("decoder.out_one_frame"))

    encoder = filled(Encoder(encoder_config(under("encoder.weights.", file.tensors), {})), file, "encoder.weights.")
    posterior = encoder(get("encoder.video"))
    yield "encoder_mean", relative_error(posterior.mean, get("encoder.mean"))
    yield "encoder_logvar", relative_error(posterior.logvar, get("encoder.logvar"))

    run = {name: json.loads(value) for name, value in file.metadata.items()}
    sigmas = linear_quadratic(run["steps"], run["threshold_noise"], run.get("linear_steps"))
    rotary = dit.rotary(*get("sampler.noise").shape[2:])
    predict = guided(
        lambda z, sigma: dit(z, sigma, text, rotary),
        lambda z, sigma: dit(z, sigma, nothing, rotary),
        per_step_cfg(run["cfg_scale"], run["steps"]),
    )
    latents = sample(predict, get("sampler.noise"), sigmas)
    yield (
        "sampler",
        max(
            relative_error(torch.tensor(sigmas, dtype=torch.float64), get("sampler.sigmas")),
            relative_error(latents, get("sampler.latents_dit")),
            relative_error(to_vae(latents, PREVIEW.latents), get("sampler.latents_vae")),
        ),
    )


def compare_frame_sigma(file: Checkpoint, rest: Checkpoint) -> Iterator[tuple[str, float]]:
    """As `compare`, for a file of outputs with a noise level for each frame. rest: weights and inputs."""

    def get(name: str) -> Tensor:
        return (file.tensors.get(name) or rest.tensors[name]).read()

    dit, text, nothing = network_and_prompts(rest)
    sigma = get("frame_sigma.sigma")
    yield "frame_sigma", relative_error(dit(get("dit.z"), sigma, text), get("frame_sigma.out"))
    empty = dit(get("dit.z"), sigma, nothing)
    yield "frame_sigma_empty_prompt", relative_error(empty, get("frame_sigma.out_empty_prompt"))

    noise, multipliers = get("sampler.noise"), [1.0] * get("sampler.noise").shape[2]
    latents = torch.zeros_like(noise)
    for i, frame in enumerate(get("run.frame").tolist()):
        latents[:, :, frame] = get("run.condition")[:, :, i]
        multipliers[frame] = get("run.noise_multiplier")[i].item()
    cfg = float(file.metadata["cfg_scale"])
    sigmas = get("sampler.sigmas").tolist()
    predict = guided(
        lambda z, sigma: dit(z, sigma, text),
        lambda z, sigma: dit(z, sigma, nothing),
        per_step_cfg(cfg, len(sigmas) - 1),
    )
    latents = sample(predict, noise, sigmas, given=Given(latents, tuple(multipliers)))
    yield "frame_sigma_run", relative_error(latents, get("run.latents_dit"))


def network_and_prompts(file: Checkpoint) -> tuple[AsymmDiT, TextContext, TextContext]:
    """The denoiser in a file, its prompt and its empty prompt."""

    def get(name: str) -> Tensor:
        return file.tensors[name].read()

    dit = AsymmDiT(dit_config(under("dit.weights.", file.tensors), {}))
    filled(dit, file, "dit.weights.")
    text = dit.encode_text(get("dit.text"), get("dit.text_mask").bool())
    nothing = dit.encode_text(get("dit.text_empty"), torch.zeros(get("dit.text_empty").shape[:2], dtype=torch.bool))
    return dit, text, nothing


def main(paths: list[str]) -> int:
    if not paths:
        print(__doc__, file=sys.stderr)
        return 2
    exact = True
    for path in paths:
        for part, error in compare(Path(path)):
            within = error <= BOUNDS[part]  # false for NaN too
            exact &= within
            print(f"{part} {error:.3e}" + ("" if within else f"  OVER THE BOUND {BOUNDS[part]:.0e}"))
    return 0 if exact else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
