"""Two ranks behind a running ComfyUI: the tiny workflow over the API, as an editor queues it."""

import copy
import json
import re
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest
import torch
from safetensors.torch import load_file

from scripts.client import ComfyClient, PromptFailed, Result
from scripts.comfyui import PROJECT, prepare_base
from scripts.server import ComfyServer
from tests.exact import relative_error

TINY = json.loads((PROJECT / "workflows" / "api" / "tiny_on_two_ranks.json").read_text(encoding="utf-8"))
SAVERS = ("MochiParallelSaveVideo", "SaveLatent")
pytestmark = pytest.mark.skipif(torch.cuda.device_count() == 1, reason="two ranks need no GPU, or two")


class Status(NamedTuple):
    """What Mochi Group Status says: process ids, and how often each model was loaded, by file."""

    text: str

    @property
    def pids(self) -> list[int]:
        return [int(number) for number in re.findall(r"process (\d+)", self.text)]

    @property
    def loads(self) -> dict[str, int]:
        return {name: int(count) for name, count in re.findall(r"^([^\s:]+).*loads: (\d+)$", self.text, re.M)}


def tiny(**widgets):
    """The workflow, with its latents saved too, and other values in widgets of its sampler."""
    prompt = copy.deepcopy(TINY)
    sampler = node(prompt, "MochiParallelSampler")
    prompt[sampler]["inputs"] |= {"steps": 3, **widgets}
    prompt["99"] = {"class_type": "SaveLatent", "inputs": {"samples": [sampler, 0], "filename_prefix": "latents/tiny"}}
    return prompt


def node(prompt: dict, kind: str) -> str:
    return next(number for number, entry in prompt.items() if entry["class_type"] == kind)


def run(client: ComfyClient, prompt: dict, on_event=None):
    return client.run(prompt, on_event, timeout=300)


def status_in(result: Result) -> Status:
    return Status(result.history["outputs"][node(TINY, "MochiParallelGroupStatus")]["text"][0])


def status(client: ComfyClient) -> Status:
    """Asked for by itself. The other nodes do not run, but are in the prompt, so that the host keeps their models."""
    prompt = {number: entry for number, entry in tiny().items() if entry["class_type"] not in SAVERS}
    prompt[node(prompt, "MochiParallelGroupStatus")]["inputs"] = {}
    return status_in(run(client, prompt))


def latents(comfy, prompt: dict) -> torch.Tensor:
    paths = run(comfy.client, prompt).paths(comfy.output)
    (file,) = (path for path in paths if path.suffix == ".latent")
    return load_file(file)["latent_tensor"]


def test_two_ranks_make_the_latents_of_one_process(comfy):
    prompt = tiny(seed=11)
    two = latents(comfy, prompt)
    for loader in ("MochiParallelLoadDiT", "MochiParallelLoadVAE"):
        del prompt[node(prompt, loader)]["inputs"]["gpus"]  # as in a workflow from before there was such a widget
    one = latents(comfy, prompt)
    assert relative_error(two, one) <= 1e-5


def test_prompts_in_a_row_share_the_group(comfy):
    seen = []
    for seed in (21, 22):
        result = run(comfy.client, tiny(seed=seed))
        seen.append(status_in(result))
        assert any(path.suffix == ".mp4" for path in result.paths(comfy.output))
    first, second = seen
    assert len(first.pids) == 2 and first.pids == second.pids
    assert set(first.loads) == {"dit.safetensors", "decoder.safetensors"} and first.loads == second.loads
    assert "guidance 2 x Ulysses 1" in first.text


def test_cancel_leaves_the_group_as_it_is(comfy):
    before = status_in(run(comfy.client, tiny(seed=31)))

    def cancel_at_first_step(kind, data):
        if kind == "preview":
            comfy.client.interrupt()

    with pytest.raises(PromptFailed) as failure:
        run(comfy.client, tiny(steps=900, seed=32), cancel_at_first_step)
    assert failure.value.interrupted
    after = status_in(run(comfy.client, tiny(seed=33)))
    assert len(after.loads) == 2
    assert after.pids == before.pids and after.loads == before.loads


def test_free_releases_and_the_processes_stay(comfy):
    run(comfy.client, tiny(seed=41))
    for forget in (False, True):
        before = status(comfy.client)
        assert len(before.loads) == 2
        comfy.client.free(free_memory=forget)
        deadline = time.monotonic() + 10
        while (now := status(comfy.client)).loads and time.monotonic() < deadline:
            time.sleep(0.1)
        assert now.text.endswith("No model is loaded.") and now.pids == before.pids
        run(comfy.client, tiny(seed=42 + forget))


def test_models_that_the_host_drops_are_released(comfy):
    """A prompt without them is enough."""
    before = status_in(run(comfy.client, tiny(seed=45)))
    after = status_in(
        run(
            comfy.client,
            {node(TINY, "MochiParallelGroupStatus"): {"class_type": "MochiParallelGroupStatus", "inputs": {}}},
        )
    )
    assert len(before.loads) == 2 and after.text.endswith("No model is loaded.") and after.pids == before.pids


def test_nothing_listens_beyond_the_loopback(comfy):
    run(comfy.client, tiny(seed=51))
    server = psutil.Process(comfy.server.process.pid)
    processes = [server, *server.children(recursive=True)]
    assert set(status(comfy.client).pids) <= {process.pid for process in processes}
    listening = [
        connection.laddr.ip
        for process in processes
        for connection in process.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert listening and set(listening) <= {"127.0.0.1", "::1"}


def test_a_killed_rank_ends_the_prompt_and_not_more(comfy):
    run(comfy.client, tiny(seed=61))
    before = status(comfy.client)
    killed = []

    def kill_at_first_step(kind, data):
        if kind == "preview" and not killed:
            killed.append(time.monotonic())
            psutil.Process(before.pids[1]).kill()

    with pytest.raises(PromptFailed, match=r"Rank 1 of 2 \(cpu\) was killed by SIGKILL") as failure:
        run(comfy.client, tiny(steps=900, seed=62), kill_at_first_step)
    assert time.monotonic() - killed[0] < 5 and not failure.value.interrupted
    assert not any(map(psutil.pid_exists, before.pids))
    assert list((comfy.base / "user" / "mochi-parallel").glob("*-logs/rank1.log"))
    run(comfy.client, tiny(seed=63))
    assert len(status(comfy.client).pids) == 2


@pytest.fixture
def short_tmp() -> Iterator[Path]:
    """A temporary folder for a server alone; its path is short enough for the sockets of ranks."""
    with tempfile.TemporaryDirectory(prefix="mochi-") as folder:
        yield Path(folder)


def test_ranks_end_with_a_killed_server(comfyui_path: Path, tmp_path: Path, short_tmp: Path):
    folder = short_tmp
    base = prepare_base(tmp_path / "base")
    with ComfyServer(comfyui_path, base, cpu=True, environment={"TMPDIR": str(folder)}) as server:
        client = ComfyClient(server.url)
        run(client, tiny())
        pids = status(client).pids
        assert len(pids) == 2 and list(folder.glob("mochi-group-*"))
        server.process.kill()
        _, alive = psutil.wait_procs([psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)], timeout=5)
        assert not alive
        assert not list(folder.glob("mochi-group-*"))
