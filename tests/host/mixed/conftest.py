"""Mixed graphs, our nodes among built-in ones, over the API of a running ComfyUI.

A test is a row of workflows/MIXED.md, whose first three cells are its mark: `@pytest.mark.mixed(our nodes, built-in
nodes, what they are compared with)`. It builds a graph with the fixture `g`, and asserts what holds of it. Each is run
in one process and on two ranks. The table is in test_table.py. What only newer hosts have is in test_mixed_today.py.
"""

from collections import defaultdict
from collections.abc import Iterator

import pytest
import torch

from scripts.client import ComfyClient
from scripts.comfyui import prepare_base
from scripts.server import ComfyServer
from tests.host.conftest import Comfy
from tests.host.mixed.checks import CheckedGraph

Seen = dict[str, dict[int, str]]
"""Name of a test -> number of ranks -> what was seen."""


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "mixed(ours, builtin, compared): a row of workflows/MIXED.md")


@pytest.fixture(scope="package")
def comfy(comfyui_path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Comfy]:
    """A server with one thread: what is computed here is so small that threads mostly wait for each other."""
    base = prepare_base(tmp_path_factory.mktemp("mixed"))
    with ComfyServer(comfyui_path, base, cpu=True, environment={"OMP_NUM_THREADS": "1"}) as server:
        yield Comfy(server, ComfyClient(server.url), base)


@pytest.fixture(scope="package")
def host_version(comfy: Comfy) -> str:
    return comfy.client.get("/system_stats")["system"]["comfyui_version"]


@pytest.fixture(scope="session")
def seen() -> Seen:
    """What the tests that have passed so far have shown."""
    return defaultdict(dict)


@pytest.fixture(params=[1, 2], ids=["one_process", "two_ranks"])
def g(comfy: Comfy, seen: Seen, request: pytest.FixtureRequest) -> Iterator[CheckedGraph]:
    """A graph whose `model` and `vae` are in one process, or on two ranks."""
    if torch.cuda.device_count() == 1:
        pytest.skip("two ranks need no GPU, or two")
    graph, failed = CheckedGraph(comfy, ranks=request.param), request.session.testsfailed
    yield graph
    if request.session.testsfailed == failed:
        seen[request.node.originalname][request.param] = graph.summary()
