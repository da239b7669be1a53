"""The nodes as the editor shows them."""

import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest
from comfy_api.latest import io

PROJECT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def schemas(pack):
    return {node_id: node.GET_SCHEMA() for node_id, node in pack.nodes.items()}


def test_table_agrees_with_the_schemas(pack, schemas):
    names = sys.modules[pack.name].NODE_DISPLAY_NAME_MAPPINGS
    for node_id, schema in schemas.items():
        assert schema.node_id == node_id
        assert schema.display_name == names[node_id]
        assert schema.category == "Mochi" and schema.description.endswith(".")


def test_help_pages_name_every_input(schemas):
    for node_id, schema in schemas.items():
        page = (PROJECT / "web" / "docs" / f"{node_id}.md").read_text(encoding="utf-8")
        assert page.startswith(f"# {schema.display_name}\n")
        assert re.findall(r"^\| (\w+) \|", page, re.MULTILINE)[1:] == [entry.id for entry in schema.inputs]


def test_a_later_host_finds_nodes_by_other_words(pack, monkeypatch):
    """The Schema of this one takes no such words, nor do the nodes give it any."""

    @dataclass
    class Later(io.Schema):
        search_aliases: list[str] = field(default_factory=list)

    for name, module in list(sys.modules.items()):
        if name.startswith(f"{pack.name}.nodes.") and hasattr(module, "io"):
            monkeypatch.setattr(module, "io", SimpleNamespace(**{**vars(module.io), "Schema": Later}))
    for node_id, node in pack.nodes.items():
        words = node.define_schema().search_aliases
        assert len(words) >= 2 and all(word == word.lower() for word in words), node_id


def test_sockets_are_standard_types(schemas):
    kinds = {node_id: [output.io_type for output in schema.outputs or []] for node_id, schema in schemas.items()}
    assert kinds == {
        "MochiParallelLoadT5": ["CLIP"],
        "MochiParallelLoadDiT": ["MODEL"],
        "MochiParallelLoadVAE": ["VAE"],
        "MochiParallelLoadLoRA": ["MODEL"],
        "MochiParallelTeaCache": ["MODEL"],
        "MochiParallelTextEncode": ["CONDITIONING"],
        "MochiParallelSigmas": ["SIGMAS"],
        "MochiParallelSampler": ["LATENT"],
        "MochiParallelExtend": ["LATENT"],
        "MochiParallelImageToVideo": ["LATENT"],
        "MochiParallelTransition": ["LATENT"],
        "MochiParallelNoiseMask": ["LATENT"],
        "MochiParallelInvert": ["LATENT", "SIGMAS"],
        "MochiParallelResample": ["LATENT"],
        "MochiParallelVAEDecode": ["IMAGE"],
        "MochiParallelVAEEncode": ["LATENT"],
        "MochiParallelSaveVideo": [],
        "MochiParallelSafety": ["STRING", "CONDITIONING", "IMAGE", "MOCHI_SAFETY"],
        "MochiParallelSettings": ["MOCHI_PARALLEL"],
        "MochiParallelGroupStatus": ["STRING"],
        "MochiParallelBatch": ["STRING", "STRING"],
        "MochiParallelTrainLoRA": ["STRING", "STRING", "STRING"],
    }


def test_widgets_step_over_valid_values(pack):
    inputs = pack.nodes["MochiParallelSampler"].INPUT_TYPES()["required"]
    for name in ("width", "height"):
        options = inputs[name][1]
        assert options["step"] == 16 and options["min"] % 16 == 0 and options["default"] % 16 == 0
    frames = inputs["frames"][1]
    assert frames["step"] == 6 and frames["min"] % 6 == 1 and frames["default"] % 6 == 1
