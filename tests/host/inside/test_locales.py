"""The texts of the nodes in each language, as ComfyUI reads them from locales/."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from app.custom_node_manager import CustomNodeManager

PROJECT = Path(__file__).resolve().parents[3]
LANGUAGES = ("en", "zh")
NUMBER = re.compile(r"\d+(?:\.\d+)?")
# Names of files, folders, modules and models: words joined by a slash, a full stop or an underscore.
NAME = re.compile(r"[\w-]+(?:[./_][\w-]+)+", re.ASCII)


@pytest.fixture(scope="module")
def schemas(pack) -> dict[str, Any]:
    return {node_id: node.GET_SCHEMA() for node_id, node in pack.nodes.items()}


@pytest.fixture(scope="module")
def texts() -> dict[str, dict]:
    return {language: json.loads(_file(language).read_text(encoding="utf-8")) for language in LANGUAGES}


def test_english_is_that_of_the_nodes(schemas, texts):
    expected = {
        node_id: {
            "display_name": schema.display_name,
            "description": schema.description,
            "inputs": {
                entry.id: {"name": entry.display_name or entry.id, "tooltip": entry.tooltip} for entry in schema.inputs
            },
            "outputs": {
                str(index): {"name": output.display_name or output.io_type, "tooltip": output.tooltip}
                for index, output in enumerate(schema.outputs or [])
            },
        }
        for node_id, schema in schemas.items()
    }
    again = "A text of a node has changed: run `python -m scripts.make_locales`, and bring locales/zh up to date."
    assert texts["en"] == expected, again


def test_languages_have_the_same_texts(texts):
    english, chinese = (dict(_flat(texts[language])) for language in LANGUAGES)
    assert list(chinese) == list(english)
    assert not [path for path, text in chinese.items() if not text.strip()]
    untold = [path for path, text in chinese.items() if path[-1] in ("description", "tooltip") and text.isascii()]
    assert not untold, "still in English"


@pytest.mark.parametrize("language", LANGUAGES)
def test_editor_takes_them_literally(texts, language):
    """Its messages have signs of their own, and a dot in a key leads into the next table."""
    for path, text in _flat(texts[language]):
        assert not set("{}@|") & set(text), path
        assert not any("." in key for key in path)


def test_translation_keeps_numbers_and_names(texts, schemas):
    chinese = dict(_flat(texts["zh"]))
    for path, text in _flat(texts["en"]):
        if path[-1] == "name":
            continue
        assert Counter(NUMBER.findall(chinese[path])) == Counter(NUMBER.findall(text)), path
        assert set(NAME.findall(text)) <= set(NAME.findall(chinese[path])), path
    for node_id, schema in schemas.items():
        for entry in schema.inputs:
            path = (node_id, "inputs", entry.id, "tooltip")
            for option in getattr(entry, "options", None) or []:
                word = re.compile(rf"(?<!\w){re.escape(option)}(?!\w)", re.ASCII)
                assert not word.search(entry.tooltip) or word.search(chinese[path]), (path, option)


def test_translation_names_nodes_as_they_are_shown(texts):
    """What stands in quotes is the name of a node of the pack, of an input beside it, or of one of ComfyUI's nodes."""
    names = {node["display_name"] for node in texts["zh"].values()}
    names |= {"加载CLIP", "CLIP文本编码", "VAE解码", "VAE编码", "自定义采样器", "设置Latent噪波遮罩"}
    for (node_id, *path), text in _flat(texts["zh"]):
        inputs = {entry["name"] for entry in texts["zh"][node_id]["inputs"].values()}
        loaders = {"并行设置"} if node_id == "MochiParallelSettings" else set()
        assert set(re.findall("“(.*?)”", text)) <= names | inputs | loaders, (node_id, *path)


def test_chinese_help_pages_agree(texts):
    """With the names in the editor, and with the numbers of the English pages."""
    for node_id, node in texts["zh"].items():
        english, page = (
            (PROJECT / "web" / "docs" / name).read_text(encoding="utf-8")
            for name in (f"{node_id}.md", f"{node_id}/zh.md")
        )
        assert Counter(NUMBER.findall(page)) == Counter(NUMBER.findall(english)), node_id
        assert page.startswith(f"# {node['display_name']}\n")
        table = page.split("\n## ")[1]
        assert re.findall(r"^\| (.+?) \|", table, re.MULTILINE)[2:] == [e["name"] for e in node["inputs"].values()]


@pytest.mark.parametrize("language", LANGUAGES)
def test_files_are_written_the_same_way(texts, language):
    text = json.dumps(texts[language], indent=2, ensure_ascii=False) + "\n"
    assert _file(language).read_text(encoding="utf-8") == text


def test_host_serves_them(pack, texts):
    served = CustomNodeManager().build_translations()
    for language in LANGUAGES:
        nodes = served[language]["nodeDefs"]
        assert {node_id: nodes[node_id] for node_id in pack.nodes} == texts[language]


def _file(language: str) -> Path:
    return PROJECT / "locales" / language / "nodeDefs.json"


def _flat(texts: dict, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    """Each text with the keys that lead to it."""
    for key, value in texts.items():
        if isinstance(value, dict):
            yield from _flat(value, (*path, key))
        else:
            yield (*path, key), value
