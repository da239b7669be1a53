"""From a prompt to frames on CUDA, with the built-in model."""

from collections import Counter
from dataclasses import replace

import torch
from safetensors.torch import save_file

from mochi.lora.apply import read_loras
from mochi.pipeline import GenerateSettings, load_pipeline
from mochi.sampling import Watch
from tests.exact import relative_error


def settings(**changes) -> GenerateSettings:
    small = GenerateSettings.of(load_pipeline(device="cpu").config.defaults, prompt="a red circle", seed=1)
    return replace(small, width=32, height=32, frames=25, steps=4, **changes)


def test_frames_are_those_of_the_cpu(cuda):
    pipelines = (load_pipeline(device=device, dtype=torch.float32) for device in ("cpu", "cuda"))
    expected, found = (torch.cat(list(pipeline.generate(settings()))) for pipeline in pipelines)
    assert found.device.type == "cpu"
    assert relative_error(found, expected) <= 1e-4


def test_no_step_waits_for_the_device(cuda):
    pipeline, stops = load_pipeline(device="cuda"), []
    pipeline.denoise(settings(), Watch(on_step=lambda done: stops.append(Counter(cuda.ledger.stops))))
    assert stops == [stops[0]] * 4


def test_no_piece_of_the_video_waits_for_the_device(cuda, monkeypatch):
    """With hardly any memory there are many pieces, which come to the CPU while the device is at the next ones."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device=None: (0, 1 << 30))
    pipeline, stops = load_pipeline(device="cuda"), []
    for _ in pipeline.decode(torch.randn(1, 12, 9, 4, 4).cuda()):
        stops.append(Counter(cuda.ledger.stops))
    assert len(stops) > 2
    assert stops[-2] == stops[0]


def test_a_cached_run(cuda):
    """TeaCache looks at numbers to decide, and waits for them."""
    pipelines = [load_pipeline(device=device, dtype=torch.float32) for device in ("cpu", "cuda")]
    expected, found = (pipeline.denoise(settings(teacache=0.5)) for pipeline in pipelines)
    assert relative_error(found.cpu(), expected) <= 1e-4
    assert pipelines[1].passes == pipelines[0].passes
    assert not all(pipelines[1].passes.values())


def test_offloaded_networks_are_on_the_device_only_while_they_compute(cuda, monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device=None: (0, 1 << 20))  # the video comes in pieces
    pipeline = load_pipeline(device="cuda", dtype=torch.float32, offload=True)
    networks = pipeline.denoiser.dit, pipeline.decoder.decoder

    def places() -> list[set[str]]:
        return [{t.device.type for t in network.state_dict().values()} for network in networks]

    assert places() == [{"cpu"}, {"cpu"}]
    seen = []
    latents = pipeline.denoise(settings(), Watch(on_step=lambda done: seen.append(places())))
    assert seen == [[{"cuda"}, {"cpu"}]] * 4 and places() == [{"cpu"}, {"cpu"}]
    frames = pipeline.decode(latents)
    first = next(frames)
    assert places() == [{"cpu"}, {"cuda"}]
    found = torch.cat([first, *frames])
    assert places() == [{"cpu"}, {"cpu"}]
    expected = torch.cat(list(load_pipeline(device="cpu", dtype=torch.float32).generate(settings())))
    assert relative_error(found, expected) <= 1e-4
    assert str(pipeline.denoiser.devices[0]) == "cuda:0"


def test_a_lora_on_offloaded_quantised_weights(cuda, tmp_path):
    """Its factors are where the weights are dequantised."""
    target, rank = "blocks.0.attn.qkv_x", 2
    plain = load_pipeline(device="cpu", dtype=torch.float8_e4m3fn)
    out_features, in_features = plain.denoiser.dit.get_parameter(f"{target}.weight").shape
    factors = {"lora_A": torch.randn(rank, in_features), "lora_B": torch.randn(out_features, rank)}
    save_file({f"{target}.{name}.weight": t for name, t in factors.items()}, tmp_path / "lora.safetensors")
    loras = read_loras([(str(tmp_path / "lora.safetensors"), 1.0)], plain.config.dit)
    pipelines = plain, load_pipeline(device="cuda", dtype=torch.float8_e4m3fn, offload=True)
    without = pipelines[0].denoise(settings())
    for pipeline in pipelines:
        pipeline.use_loras(loras)
    expected, found = (pipeline.denoise(settings()).float().cpu() for pipeline in pipelines)
    assert relative_error(found, expected) < 0.5 * relative_error(without, expected)
