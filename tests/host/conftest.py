"""A real ComfyUI with the pack in it, started once for all tests of this folder.

The tests here talk to it as an editor does, over HTTP and websocket, through the fixture `comfy`.
Tests that need ComfyUI's own modules in their process live in `inside/`, which has a configuration of its own.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from scripts.client import ComfyClient
from scripts.comfyui import PACK_NAME, HostError, find_or_fetch_comfyui, prepare_base
from scripts.server import ComfyServer


@dataclass(frozen=True)
class Comfy:
    """The running host: `comfy.client.run(prompt)`, files in `comfy.output`, `comfy.server.log()`."""

    server: ComfyServer
    client: ComfyClient
    base: Path

    @property
    def models(self) -> Path:
        return self.base / "models"

    @property
    def output(self) -> Path:
        return self.base / "output"

    def pack_nodes(self) -> dict[str, dict]:
        """The host's description of the nodes that came from this pack, by their ids of today."""
        module, all_nodes = f"custom_nodes.{PACK_NAME}", self.client.object_info()
        return {
            name: info for name, info in all_nodes.items() if info["python_module"] == module and not info["deprecated"]
        }


@pytest.fixture(scope="session")
def comfyui_path() -> Path:
    """The host's folder. Its absence is a reason to skip on a person's machine, and a failure in CI."""
    try:
        return find_or_fetch_comfyui()
    except HostError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"no ComfyUI to test against: {error}")


@pytest.fixture(scope="session")
def comfy(comfyui_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Comfy]:
    """One server for the whole session, on the CPU unless MOCHI_TEST_GPU is set. Leave it idle after each test.

    It drops what a prompt does not use, which a newer ComfyUI does by itself when memory is short. Other servers of
    these tests run as people start them.
    """
    base = prepare_base(tmp_path_factory.mktemp("comfyui"))
    on_cpu = not os.environ.get("MOCHI_TEST_GPU")
    with ComfyServer(comfyui_path, base, cpu=on_cpu, extra=["--cache-classic"]) as server:
        yield Comfy(server, ComfyClient(server.url), base)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this folder is marked `host`: `-m "not host"` leaves it out."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.host)
