"""What a rank tells while its device goes on with its work: the same, in the same order, as one that waits."""

import threading
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from mochi import transfer
from mochi.config import TINY_WEIGHTS
from mochi.errors import Cancelled
from mochi.parallel.protocol import Decode, LoadDiT, LoadVAE, Progress, Sample, StepDone, StripDecoded
from mochi.parallel.worker import service, strips
from mochi.parallel.worker.service import Rank

STEPS = 4
CPU = torch.device("cpu")


class Alone:
    """The context of the only rank, which keeps what it is told. cancel_at: number of the step."""

    rank, size, device, timeout, machines = 0, 1, CPU, None, (0,)

    def __init__(self, cancel_at: int | None = None):
        self.told: list[Progress] = []
        self.tellers: set[int] = set()
        self.asked, self.cancel_at = 0, cancel_at

    def emit(self, progress: Progress) -> None:
        self.told.append(progress)
        if isinstance(progress, (StepDone, StripDecoded)):
            self.tellers.add(threading.get_ident())

    def asked_to_cancel(self) -> bool:
        return False

    def cancelled(self) -> bool:
        self.asked += 1
        return self.asked == self.cancel_at


@pytest.fixture(scope="module", autouse=True)
def _one_rank(tmp_path_factory) -> Iterator[None]:
    place: Path = tmp_path_factory.mktemp("group") / "rendezvous"
    dist.init_process_group("gloo", init_method=f"file://{place}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


class Ended:
    """An event that has happened: a CPU has done its work when it is asked."""

    def synchronize(self) -> None:
        pass


@pytest.fixture(params=["waits", "goes on"])
def way(request, monkeypatch: pytest.MonkeyPatch) -> str:
    """Of a device: whether the host waits for what leaves it, as for a CPU, or goes on as with a GPU."""
    if request.param == "goes on":
        for module in (service, strips):
            monkeypatch.setattr(module, "Outgoing", lambda device: transfer.Outgoing(torch.device("cuda")))
        monkeypatch.setattr(transfer, "_mark", lambda device: Ended())
        monkeypatch.setattr(transfer, "_start_copy", lambda t: t.clone())
    return request.param


def denoise(context: Alone) -> Tensor:
    rank = Rank(context)
    rank.handle(LoadDiT(TINY_WEIGHTS / "dit.safetensors", torch.float32, torch.float32, name="dit"))
    config = rank._models["dit"].weights.model.config
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(1, 12, 2, 4, 6, generator=generator)
    features = torch.randn(2, config.text_length, config.text_width, generator=generator)
    texts = {1: (features, torch.ones(2, config.text_length, dtype=torch.bool))}
    sigmas = torch.linspace(1, 0, STEPS + 1).tolist()
    with torch.inference_mode():
        prompts = {"positive": [(1, 0)], "negative": [(1, 1)], "texts": texts, "forget": []}
        return rank.handle(Sample(name="dit", noise=noise, sigmas=sigmas, cfg=[3.0] * STEPS, **prompts))


def decode(context: Alone, as_bytes: bool = False) -> None:
    rank = Rank(context)
    rank.handle(LoadVAE(TINY_WEIGHTS / "decoder.safetensors", None, torch.float32, name="vae"))
    z = torch.randn(1, 12, 4, 4, 6, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        rank.handle(Decode("vae", z, as_bytes))


def test_every_step_comes_with_its_own_tensors(way):
    context = Alone()
    latents = denoise(context)
    steps = [told for told in context.told if isinstance(told, StepDone)]
    assert [(told.done, told.total, told.phase) for told in steps] == [
        (n, STEPS, f"step {n} of {STEPS}") for n in range(1, STEPS + 1)
    ]
    assert (context.tellers == {threading.get_ident()}) == (way == "waits")
    assert torch.equal(steps[-1].latents, latents) and torch.equal(steps[-1].estimate, latents)
    for before, after in pairwise(steps):
        level = 1 - before.done / STEPS  # of the latents, to the estimate that the next step starts from
        flow = (after.latents - before.latents) * STEPS
        assert torch.allclose(before.latents + level * flow, after.estimate, atol=1e-4)
    assert all(told.seconds >= 0 and told.memory > 0 for told in steps)


def test_a_cancelled_run_tells_nothing_of_later_steps(way):
    context = Alone(cancel_at=3)
    with pytest.raises(Cancelled):
        denoise(context)
    told = [told.done for told in context.told if isinstance(told, StepDone)]
    assert told == [1, 2][: len(told)] and (way == "goes on" or len(told) == 2)


@pytest.mark.parametrize("as_bytes", [False, True])
def test_every_strip_comes_in_order(way, as_bytes):
    context, whole = Alone(), Alone()
    decode(context, as_bytes)
    strips = [told for told in context.told if isinstance(told, StripDecoded)]
    assert [(told.first, told.done) for told in strips] == [(n, n + 1) for n in range(4)]
    assert (context.tellers == {threading.get_ident()}) == (way == "waits")
    decode(whole)
    frames = torch.cat([told.strip for told in whole.told if isinstance(told, StripDecoded)], dim=2)
    if as_bytes:
        frames = ((frames + 1) / 2).clamp(0, 1).mul(255).round().to(torch.uint8)
    assert torch.equal(torch.cat([told.strip for told in strips], dim=2), frames)


def test_a_cancelled_decode_ends(way):
    context = Alone(cancel_at=2)
    with pytest.raises(Cancelled):
        decode(context)
    assert [told.first for told in context.told if isinstance(told, StripDecoded)] in ([0, 1], [0], [])
