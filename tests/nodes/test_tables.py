"""What the registry, the Manager and the editor read of the pack without running it."""

import ast
import re
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]
SOURCE = (PROJECT / "__init__.py").read_text(encoding="utf-8")
NODES = [
    "MochiParallelLoadT5",
    "MochiParallelLoadDiT",
    "MochiParallelLoadVAE",
    "MochiParallelLoadLoRA",
    "MochiParallelTeaCache",
    "MochiParallelTextEncode",
    "MochiParallelSigmas",
    "MochiParallelSampler",
    "MochiParallelExtend",
    "MochiParallelImageToVideo",
    "MochiParallelTransition",
    "MochiParallelNoiseMask",
    "MochiParallelInvert",
    "MochiParallelResample",
    "MochiParallelVAEDecode",
    "MochiParallelVAEEncode",
    "MochiParallelSaveVideo",
    "MochiParallelSafety",
    "MochiParallelSettings",
    "MochiParallelGroupStatus",
    "MochiParallelBatch",
    "MochiParallelTrainLoRA",
]


def test_tables_can_be_read_without_running_code():
    """As ComfyUI-Manager's scanner does: by pattern."""
    for table in ("NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS"):
        (body,) = re.findall(rf"^{table} = {{([^}}]*)}}", SOURCE, re.MULTILINE)
        assert re.findall(r'"([^"]*)"\s*:', body) == NODES


def test_display_names_are_unique():
    tables = {
        node.targets[0].id: node.value
        for node in ast.parse(SOURCE).body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict)
    }
    names = [value.value for value in tables["NODE_DISPLAY_NAME_MAPPINGS"].values]
    assert len(set(names)) == len(NODES) and all("Mochi" in name for name in names)


@pytest.mark.parametrize("node", NODES)
def test_every_node_has_a_help_page(node):
    page = (PROJECT / "web" / "docs" / f"{node}.md").read_text(encoding="utf-8")
    assert page.startswith("# ") and "## Inputs" in page


@pytest.mark.parametrize("node", NODES)
def test_every_help_page_has_its_picture(node):
    docs = PROJECT / "web" / "docs"
    assert (docs / node / "graph.jpg").read_bytes()[:3] == b"\xff\xd8\xff"
    for page in (docs / f"{node}.md", docs / node / "zh.md"):
        # As the editor looks it up: from the folder of all pages, whatever the language.
        assert re.findall(r"!\[.+\]\((.+)\)", page.read_text(encoding="utf-8")) == [f"{node}/graph.jpg"]


def test_no_help_page_is_left_over():
    assert {page.stem for page in (PROJECT / "web" / "docs").glob("*.md")} == set(NODES)


@pytest.mark.parametrize("workflow", sorted((PROJECT / "workflows").glob("*.json")), ids=lambda file: file.stem)
def test_every_workflow_has_its_api_format_and_a_thumbnail(workflow):
    assert (workflow.parent / "api" / workflow.name).is_file()
    thumbnail = workflow.with_suffix(".jpg")  # the name that the editor's template browser asks for
    assert thumbnail.is_file() and thumbnail.read_bytes()[:3] == b"\xff\xd8\xff"


def test_only_the_host_room_knows_comfyui():
    """Nodes go through nodes/host; the core knows nothing of ComfyUI."""
    internals = re.compile(
        r"^\s*(?:import|from)\s+(comfy|comfy_extras|folder_paths|server|execution|latent_preview)\b", re.M
    )
    for file in [*(PROJECT / "nodes").glob("*.py"), *(PROJECT / "mochi").rglob("*.py")]:
        assert not internals.search(file.read_text(encoding="utf-8")), file


def test_imports_inside_the_pack_are_relative():
    """ComfyUI loads the pack under a name made from its path, and has a module `nodes` of its own."""
    absolute = re.compile(r"^\s*(?:import|from)\s+(mochi|nodes)\b", re.M)
    in_a_rank = PROJECT / "mochi" / "parallel" / "worker" / "main.py"  # runs as a file, and loads the package first
    for folder in ("nodes", "mochi"):
        for file in {*(PROJECT / folder).rglob("*.py")} - {in_a_rank}:
            assert not absolute.search(file.read_text(encoding="utf-8")), file
