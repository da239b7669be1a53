"""What the registry of ComfyUI asks of pyproject.toml (docs.comfy.org/registry/specifications)."""

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from packaging.specifiers import SpecifierSet

from scripts.comfyui import COMFYUI_VERSION

PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def pyproject() -> dict:
    tomllib = pytest.importorskip("tomllib", reason="is of Python 3.11")
    return tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))


def test_project(pyproject):
    project = pyproject["project"]
    assert re.fullmatch(r"[a-z](?:[-_.]?[a-z0-9])*", project["name"]) and "comfyui" not in project["name"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", project["version"])
    assert project["description"].endswith(".") and (PROJECT / project["readme"]).is_file()
    assert (PROJECT / project["license"]["file"]).read_text(encoding="utf-8").split()[:2] == ["Apache", "License"]


def test_comfy(pyproject):
    comfy = pyproject["tool"]["comfy"]
    assert comfy["PublisherId"] and comfy["DisplayName"]
    assert COMFYUI_VERSION in SpecifierSet(comfy["requires-comfyui"])


def test_icon_is_as_the_registry_takes_it():
    icon = ElementTree.parse(PROJECT / "pictures" / "icon.svg").getroot()
    assert icon.get("width") == icon.get("height") == "400"
