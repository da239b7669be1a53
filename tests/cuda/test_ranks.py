"""Two ranks with CUDA devices: pretended ones here, and one real device for both where there is one."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mochi.checkpoint import load_decoder, load_encoder
from mochi.config import TINY_WEIGHTS
from mochi.dit import AsymmDiT
from mochi.lora import LoraPatch
from mochi.parallel.owner.client import RemoteDiT, RemoteVAE, finish
from mochi.parallel.owner.manager import GroupManager
from mochi.parallel.protocol import GetStatus, LoadVAE
from mochi.parallel.settings import SHARDINGS
from mochi.sampling import guided, linear_quadratic, sample
from tests.cuda.pretend import Ledger
from tests.exact import relative_error
from tests.parallel.dit_cases import NETWORK, Patches, patched_network
from tests.parallel.dit_groups import weight_file
from tests.parallel.helpers import ask, float32_dit, frames_of

checkpoint = weight_file()
SERVICE = str(Path(__file__).with_name("rank_service.py"))
WITHOUT_CUDA = {"parallel/worker/service.py", "parallel/worker/loop.py"}
"""Files whose collectives are about the ranks themselves, not about tensors on the device."""


@pytest.fixture(scope="module", params=["Pretended", pytest.param("OnOneDevice", marks=pytest.mark.cuda)])
def manager(request) -> Iterator[GroupManager]:
    manager = GroupManager(["cpu"] * 2, timeout=120.0, threads=1, service=(SERVICE, request.param))
    manager.pretends = request.param == "Pretended"
    yield manager
    manager.close()


@pytest.fixture(scope="module")
def vae(manager) -> RemoteVAE:
    decoder, encoder = TINY_WEIGHTS / "decoder.safetensors", TINY_WEIGHTS / "encoder.safetensors"
    return RemoteVAE(manager, LoadVAE(decoder, encoder, torch.float32))


def ledgers(manager: GroupManager) -> list[Ledger]:
    """What the ranks have noted since the last call. On a real device nothing is."""
    if not manager.pretends:
        pytest.skip("a real device notes nothing")
    return ask(manager.use(), "ledger")


def assert_no_more_stops(short: list[Ledger], long: list[Ledger]) -> None:
    """What has taken longer did not wait more often; and what travelled did so as CUDA wants it."""
    assert [many.stops - few.stops for few, many in zip(short, long, strict=True)] == [Counter()] * 2
    for ledger in long:
        assert ledger.collectives
        for one in ledger.collectives:
            assert one.contiguous, one
            assert one.devices == {"cuda"} or one.place.partition(":")[0] in WITHOUT_CUDA, one


def prompt(length: int) -> tuple[Tensor, Tensor]:
    features = torch.randn(1, 256, NETWORK.config.text_width, generator=torch.Generator().manual_seed(length))
    return features, torch.arange(256)[None] < length


NOISE = torch.randn(1, 12, 2, 4, 6, generator=torch.Generator().manual_seed(1))
PROMPTS = prompt(9), prompt(0)


def remote_sample(dit: RemoteDiT, steps: int) -> Tensor:
    positive, negative = (dit.text(*one) for one in PROMPTS)
    return finish(dit.sample(NOISE, linear_quadratic(steps), [4.0] * steps, [(positive, 0)], [(negative, 0)]))


@torch.inference_mode()
def expected_sample(network: AsymmDiT, steps: int) -> Tensor:
    texts = [network.encode_text(*one) for one in PROMPTS]
    flows = [lambda z, sigma, text=text: network(z, sigma, text) for text in texts]
    return sample(guided(*flows, [4.0] * steps), NOISE, linear_quadratic(steps))


def lora(name: str) -> Patches:
    rows, columns = NETWORK.get_parameter(name).shape
    generator = torch.Generator().manual_seed(2)
    up, down = 0.1 * torch.randn(rows, 2, generator=generator), torch.randn(2, columns, generator=generator)
    return {name: [LoraPatch(up, down, 0.5)]}


@pytest.mark.parametrize("sharding", SHARDINGS)
def test_weights_with_and_without_a_lora(manager, checkpoint, sharding):
    dit = float32_dit(manager, checkpoint, sharding)
    patches = lora("blocks.1.attn.qkv_x.weight") | lora("t5_yproj.weight")
    for key, network in ((None, NETWORK), ("a LoRA", patched_network(patches)), (None, NETWORK)):
        finish(dit.patch(key, patches if key else {}))
        assert relative_error(remote_sample(dit, 2), expected_sample(network, 2)) <= 1e-5
    dit.unload()


@pytest.mark.parametrize("sharding", SHARDINGS)
def test_no_step_waits_for_the_device(manager, checkpoint, sharding):
    """A longer run has no more host stops than a short one."""
    dit = float32_dit(manager, checkpoint, sharding)
    remote_sample(dit, 3)  # the first one sets up what stays
    ledgers(manager)
    remote_sample(dit, 2)
    short = ledgers(manager)
    remote_sample(dit, 5)
    assert_no_more_stops(short, ledgers(manager))
    dit.unload()


@pytest.mark.parametrize("degrees", [(1, 2), (2, 1)], ids=["Ulysses", "guidance"])
def test_forward_pass_of_both_sides(manager, checkpoint, degrees):
    dit = float32_dit(manager, checkpoint)
    dit.degrees = degrees
    rows = [(dit.text(*one), 0) for one in PROMPTS]
    z, sigma = torch.cat([NOISE, NOISE]), torch.tensor([0.7, 0.7])
    found = finish(dit.forward(z, sigma, rows))
    with torch.inference_mode():
        alone = [NETWORK(NOISE, sigma[:1], NETWORK.encode_text(*one)) for one in PROMPTS]
    assert relative_error(found, torch.cat(alone)) <= 5e-6
    assert dit.name in manager.use().run(GetStatus())[0].models
    dit.unload()
    assert dit.name not in manager.use().run(GetStatus())[0].models


@torch.inference_mode()
def test_strips_of_a_video(manager, vae):
    z = torch.randn(1, 12, 5, 4, 6, generator=torch.Generator().manual_seed(3))
    video = torch.cat(frames_of(vae, z), dim=2)
    assert relative_error(video, load_decoder(TINY_WEIGHTS / "decoder.safetensors", torch.float32, "cpu")(z)) <= 1e-5
    encoder = load_encoder(TINY_WEIGHTS / "encoder.safetensors", torch.float32, "cpu")
    assert relative_error(finish(vae.encode(video)), encoder(video).mean) <= 1e-5


def test_no_strip_waits_for_the_device(manager, vae):
    """A longer video has no more host stops than a short one."""
    finish(vae.decode(torch.zeros(1, 12, 2, 4, 6)))  # the first one sets up what stays
    ledgers(manager)
    finish(vae.decode(torch.zeros(1, 12, 2, 4, 6)))
    short = ledgers(manager)
    finish(vae.decode(torch.zeros(1, 12, 7, 4, 6)))
    assert_no_more_stops(short, ledgers(manager))


@pytest.mark.cuda
def test_one_rank_over_nccl(checkpoint):
    manager = GroupManager(["cuda:0"], timeout=120.0)
    try:
        dit = float32_dit(manager, checkpoint)
        # Convolutions are in TF32 there, of 10 bits.
        assert relative_error(remote_sample(dit, 2), expected_sample(NETWORK, 2)) <= 2**-9
    finally:
        manager.close()
