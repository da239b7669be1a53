"""The pack as people install it: copied under another name, on a path with spaces, among other packs."""

import ast
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.client import ComfyClient
from scripts.comfyui import BASE_FOLDERS, PROJECT
from scripts.server import ComfyServer

pytestmark = pytest.mark.host
NAME = "my_mochi_pack"
GRAPH = json.loads((PROJECT / "workflows" / "api" / "tiny_on_two_ranks.json").read_text(encoding="utf-8"))
# A pack that puts its own folder first on the path and has modules of our names; and one that looks at what is loaded
# when the server starts.
OTHER = """
import sys
from pathlib import Path
sys.path.insert(0, str(Path(__file__).parent))
import mochi
import vae, sampling, dit
NODE_CLASS_MAPPINGS = {}
"""
LOADED = """
import json, sys
from pathlib import Path
from server import PromptServer
async def look(app):
    Path(__file__).with_name("loaded.json").write_text(json.dumps(sorted(sys.modules)))
PromptServer.instance.app.on_startup.append(look)
NODE_CLASS_MAPPINGS = {}
"""
# Names of modules begin so. ComfyUI loads the transformers library itself, but none of its models' code.
HEAVY = (
    *("tokenizers", "sentencepiece", "diffusers", "peft", "gguf", "huggingface_hub", "imageio"),
    *("transformers", "torch._dynamo", "torch._inductor", "torch.distributed.fsdp", "torch.distributed.tensor"),
)


def pack(folder: Path, source: str) -> Path:
    folder.mkdir()
    (folder / "__init__.py").write_text(source)
    return folder


@pytest.fixture(scope="module")
def server(comfyui_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyServer]:
    base = tmp_path_factory.mktemp("install") / "My Comfy"
    for name in BASE_FOLDERS:
        (base / name).mkdir(parents=True)
    custom = base / "custom_nodes"
    other = pack(custom / "aaa other", OTHER)
    for name in ("mochi", "vae", "sampling", "dit"):
        (other / f"{name}.py").write_text("of_another_pack = True\n")
    ignored = shutil.ignore_patterns(".*", "__pycache__", "tests", "benchmarks")
    shutil.copytree(PROJECT, custom / NAME, ignore=ignored)
    with ComfyServer(comfyui_path, base, cpu=True) as server:
        yield server


def test_it_works_under_another_name_beside_packs_with_modules_of_the_same_names(server: ComfyServer):
    """In the host's process and in those of two ranks."""
    result = ComfyClient(server.url).run(GRAPH)
    (video,) = result.paths(server.base / "output")
    assert video.stat().st_size > 1000
    assert not [line for line in server.log().splitlines() if "IMPORT FAILED" in line and NAME in line]


def test_templates_and_help_are_found_under_another_name(server: ComfyServer):
    client = ComfyClient(server.url)
    assert "tiny_text_to_video" in client.get("/workflow_templates")[NAME]
    page = client.request("GET", f"/extensions/{NAME}/docs/MochiParallelSampler.md")
    assert page.decode().startswith("# Mochi Sampler")


def test_nothing_heavy_is_loaded_at_start(comfyui_path: Path, tmp_path: Path):
    """Of what ComfyUI does not load by itself."""
    loaded = []
    for with_pack in (False, True):
        base = tmp_path / str(with_pack)
        for name in BASE_FOLDERS:
            (base / name).mkdir(parents=True)
        if with_pack:
            (base / "custom_nodes" / "aaa").symlink_to(PROJECT, target_is_directory=True)
        looker = pack(base / "custom_nodes" / "zzz", LOADED)
        with ComfyServer(comfyui_path, base, cpu=True):
            pass
        loaded.append(set(json.loads((looker / "loaded.json").read_text())))
    without, with_it = loaded
    assert not [name for name in with_it - without if name.startswith(HEAVY)]


@pytest.mark.parametrize("version", [(3, 10), (3, 11), (3, 12), (3, 13)], ids=str)
def test_every_file_is_python_of_each_version(version):
    files = [p for p in PROJECT.rglob("*.py") if not any(part.startswith(".") for part in p.relative_to(PROJECT).parts)]
    assert len(files) > 100
    for file in files:
        ast.parse(file.read_text(encoding="utf-8"), str(file), feature_version=version)
