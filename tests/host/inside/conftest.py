"""ComfyUI in this process, started the way its main.py does, with the pack loaded by its own loader.

Fixtures: `pack` (the loaded nodes), `call` (run a node by its id). ComfyUI's modules can be imported at the top of a
test file: `import comfy.sd`, `import nodes`. The pack's own modules are reached through `pack.module("mochi.config")`,
since the host loads the pack under a name made from its path; `import mochi` gives a second copy with other classes.
"""

import asyncio
import importlib
import inspect
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

PROJECT = Path(__file__).resolve().parents[3]


@dataclass(frozen=True)
class Pack:
    """The pack as ComfyUI loaded it."""

    name: str  # of its module, made from a path
    nodes: dict[str, type]  # its NODE_CLASS_MAPPINGS
    base: Path  # ComfyUI's base directory: models, output, ...

    def module(self, name: str) -> Any:
        """A module of the pack by its name from the project's root, such as "mochi.config" or "nodes.sampler"."""
        return importlib.import_module(f"{self.name}.{name}")


def _import_host(base: Path) -> None:
    """What main.py does before it serves: arguments, paths, logging. ComfyUI's folder first on the path, ours last."""
    from scripts.comfyui import find_or_fetch_comfyui

    sys.path[:] = [str(find_or_fetch_comfyui()), *(entry for entry in sys.path if entry not in ("", str(PROJECT)))]
    arguments = ["main.py", *([] if os.environ.get("MOCHI_TEST_GPU") else ["--cpu"])]
    arguments += ["--base-directory", str(base), "--database-url", "sqlite:///:memory:", "--disable-api-nodes"]
    ours, sys.argv = sys.argv, arguments
    try:
        import comfy.options

        comfy.options.enable_args_parsing()
        import comfy.cli_args
    finally:
        sys.argv = ours
    # Before `nodes`, as in main.py: `nodes` puts comfy/ first on the path, where comfy/utils.py would hide utils/.
    import utils.extra_config  # noqa: F401

    sys.path.append(str(PROJECT))


def _load_pack(base: Path) -> Pack:
    import comfy.utils
    import nodes
    import server

    # Newer hosts tell of a progress bar ten times a second; a test is told of each step.
    comfy.utils.PROGRESS_THROTTLE_MIN_INTERVAL = 0.0
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    server.PromptServer(loop)  # packs and built-in nodes expect the instance to exist
    complaints = _Complaints(level=logging.WARNING)
    logging.getLogger().addHandler(complaints)
    try:
        loop.run_until_complete(nodes.init_extra_nodes(init_custom_nodes=True, init_api_nodes=False))
    finally:
        logging.getLogger().removeHandler(complaints)
    from scripts.comfyui import PACK_NAME

    folder = base / "custom_nodes" / PACK_NAME
    name = str(folder).replace(".", "_x_")
    module = sys.modules.get(name)
    if not getattr(module, "NODE_CLASS_MAPPINGS", None):
        raise RuntimeError("ComfyUI did not load the pack:\n" + "\n".join(complaints.lines))
    return Pack(name, dict(module.NODE_CLASS_MAPPINGS), base)


class _Complaints(logging.Handler):
    def __init__(self, level: int):
        super().__init__(level)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def pytest_configure(config: pytest.Config) -> None:
    """Before any test file is imported, so that they may import ComfyUI's modules at their top."""
    sys.path.append(str(PROJECT))
    from scripts.comfyui import prepare_base

    base = prepare_base(Path(tempfile.mkdtemp(prefix="comfyui-inside-")))
    config.add_cleanup(lambda: shutil.rmtree(base, ignore_errors=True))
    _import_host(base)
    config.stash[_BASE] = base


_BASE: pytest.StashKey[Path] = pytest.StashKey()


@pytest.fixture(scope="session")
def pack(pytestconfig: pytest.Config) -> Pack:
    """The pack, loaded once by ComfyUI's own loader together with all built-in nodes."""
    return _load_pack(pytestconfig.stash[_BASE])


@pytest.fixture(scope="session")
def call(pack: Pack) -> Callable[..., tuple]:
    """`call("KSampler", model=..., ...)` runs a node, ours or built-in, and returns the tuple of its outputs.

    Give every input: widgets get no defaults. `hidden={"PROMPT": ..., "EXTRA_PNGINFO": ...}` reaches `cls.hidden` of a
    V3 node. Nothing is validated beforehand; that is the executor's, and tested through a server.
    """
    import nodes
    import torch
    from executor import prepared

    def run(node_id: str, hidden: dict | None = None, **inputs: Any) -> tuple:
        node = nodes.NODE_CLASS_MAPPINGS[node_id]
        with torch.inference_mode():  # as ComfyUI's executor does
            if hasattr(node, "define_schema"):
                output = prepared(node, hidden).execute(**inputs)
            else:
                output = getattr(node(), node.FUNCTION)(**inputs)
            if inspect.isawaitable(output):
                output = asyncio.get_event_loop().run_until_complete(output)
        output = getattr(output, "result", output)
        if isinstance(output, dict):
            output = output.get("result", ())
        return tuple(output or ())

    return run


@pytest.fixture(scope="module")
def small(pack: Pack) -> Any:
    """The files of a small random model in the host's folders; see small.py."""
    return pack.module("tests.host.inside.small").write(pack.base)


@pytest.fixture(scope="module")
def model(call: Callable[..., tuple], small: Any) -> Any:
    """The MODEL of the small random AsymmDiT."""
    return call("MochiParallelLoadDiT", file=small.dit, dtype="auto")[0]


@pytest.fixture(scope="module")
def frames_model(call: Callable[..., tuple], small: Any) -> Any:
    """The same, as a model that takes given frames."""
    return call("MochiParallelLoadDiT", file=small.dit, dtype="auto", variant="frames")[0]


@pytest.fixture(scope="module")
def core_run(pack: Pack, small: Any) -> Callable[..., Any]:
    """`core_run.core_run` with the small network."""
    run = pack.module("tests.host.inside.core_run").core_run
    return lambda *args, **options: run(small.network, *args, **options)


@pytest.fixture(scope="session")
def groups(pack: Pack) -> Iterator[Any]:
    """The owner of the ranks in this process."""
    groups = pack.module("nodes.host.ranks.group").groups
    yield groups
    if groups.running is not None:
        groups.running.close()


@pytest.fixture(scope="module")
def remote(call: Callable[..., tuple], small: Any, groups: Any) -> Any:
    """The same MODEL over two ranks."""
    import torch

    if torch.cuda.device_count() == 1:
        pytest.skip("two ranks need no GPU, or two")
    return call("MochiParallelLoadDiT", file=small.dit, dtype="auto", gpus="2")[0]


@pytest.fixture(scope="module")
def frames_remote(call: Callable[..., tuple], small: Any, remote: Any) -> Any:
    """The same, as a model that takes given frames."""
    return call("MochiParallelLoadDiT", file=small.dit, dtype="auto", gpus="2", variant="frames")[0]


@pytest.fixture(scope="module")
def prompts(encode: Callable[[str], list]) -> list[list]:
    """Positive and negative CONDITIONING of different lengths, the usual case."""
    return [encode("a red circle moves left"), encode("")]


@pytest.fixture(scope="module")
def encode(call: Callable[..., tuple], small: Any) -> Callable[[str], list]:
    """CONDITIONING of a prompt."""
    (clip,) = call("MochiParallelLoadT5", file=small.t5, dtype="auto", device="default")
    return lambda prompt: call("MochiParallelTextEncode", clip=clip, prompt=prompt)[0]


@pytest.fixture(scope="module")
def k_sampler(call: Callable[..., tuple], encode: Callable[[str], list]) -> Callable[..., Any]:
    """Latents of ComfyUI's KSampler. On a remote model each step is a request."""

    def run(model, positive="a red circle", negative="", batch=1, latent=None):
        positive, negative = (encode(p) if isinstance(p, str) else p for p in (positive, negative))
        if latent is None:
            (latent,) = call("EmptyMochiLatentVideo", width=64, height=48, length=7, batch_size=batch)
        values = {"seed": 3, "steps": 3, "cfg": 3.0, "sampler_name": "euler", "scheduler": "linear_quadratic"}
        values |= {"positive": positive, "negative": negative, "latent_image": latent, "denoise": 1.0}
        return call("KSampler", model=model, **values)[0]["samples"]

    return run


@pytest.fixture(scope="module")
def mochi_sampler(call: Callable[..., tuple], encode: Callable[[str], list]) -> Callable[..., Any]:
    """Latents of our sampler. On a remote model a run is a request."""

    def run(model, positive="a red circle", negative="", batch=1, **inputs):
        positive, negative = (encode(p) if isinstance(p, str) else p for p in (positive, negative))
        values = {
            "seed": 3,
            "steps": 3,
            "cfg": 3.0,
            "width": 64,
            "height": 48,
            "frames": 7,
            "batch_size": batch,
            **inputs,
        }
        return call("MochiParallelSampler", model=model, positive=positive, negative=negative, **values)[0]["samples"]

    return run


@pytest.fixture
def protocol(pack: Any) -> Any:
    """What the ranks can be asked."""
    return pack.module("mochi.parallel.protocol")


@pytest.fixture
def requests(groups: Any, remote: Any, k_sampler: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The types of the requests that the ranks get."""
    k_sampler(remote)  # so that the group runs
    group, made = groups.running.use(), []
    stream = group.stream

    def noted(request: Any, *doing: str) -> Any:
        made.append(type(request).__name__)
        return stream(request, *doing)

    monkeypatch.setattr(group, "stream", noted)
    return made
