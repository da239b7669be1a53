"""LoRA files in ComfyUI's folder. On a MODEL they become patches of ComfyUI's kinds."""

from functools import lru_cache
from pathlib import Path
from typing import Any

import folder_paths
from comfy.model_patcher import ModelPatcher
from comfy.weight_adapter import LoRAAdapter
from torch import Tensor

from ....mochi import lora
from ....mochi.errors import MochiError
from ....mochi.lora import AdapterPatch, DiffPatch, DoraPatch, Lora, UnsupportedAdapter
from ..checks import text_width
from ..folders import find_below
from ..unchanged import Version, check, version_of
from .dora import DoraAdapter
from .lora_names import PREFIX

FOLDER = "loras"


def list_loras() -> list[str]:
    """The entries of a loader's list."""
    return folder_paths.filter_files_extensions(folder_paths.get_filename_list(FOLDER), (".safetensors", ".sft"))


def find_lora(name: str) -> Path:
    """The path of an entry. Raises MochiError when there is no such file."""
    path = find_below(folder_paths.get_folder_paths(FOLDER), name)
    if path is None or path.is_dir():
        raise MochiError(f"There is no {name!r} in models/loras. Put it there and refresh the page, or choose another.")
    return path


def check_lora(name: str) -> None:
    """Raise MochiError unless the entry's file is there and a LoRA for Mochi. Reads no weights."""
    try:
        check(_check, _version(find_lora(name)))
    except UnsupportedAdapter as error:
        raise MochiError(f"{error}. ComfyUI's own LoraLoaderModelOnly reads it, on one GPU and on several.") from error


def with_lora(model: ModelPatcher, path: Path, strength: float) -> ModelPatcher:
    """A clone of a MODEL with a LoRA. No weights of the MODEL are loaded again.

    Raises MochiError for a model that is no Mochi, CheckpointError for a file that is no LoRA for it.
    """
    text_width(model)  # is it a Mochi?
    network = model.model.diffusion_model
    loaded = _read(_version(path)).fitted(lora.patchable_shapes(network))
    patched = model.clone()
    if strength:
        # At once: each call makes a list of all the model's weights.
        found = [
            _host_patch(name, patch, network.get_parameter(name))
            for name, patches in loaded.patches.items()
            for patch in patches
        ]
        patched.add_patches(dict(found), strength)
    return patched


def _host_patch(name: str, patch: AdapterPatch, parameter: Tensor) -> tuple[Any, Any]:
    """Key and patch, as ModelPatcher takes them."""
    if isinstance(patch, DiffPatch):
        # The shape has to be the parameter's, in which only a quantised weight has other columns.
        diff = patch.diff if parameter.ndim < 3 else patch.diff.view(-1, *parameter.shape[1:])
        rows, found = len(diff), ("diff", (patch.scale * diff,))
    elif isinstance(patch, DoraPatch):
        rows, found = len(patch.up), DoraAdapter.of(patch)
    else:
        alpha = patch.scale * patch.down.shape[0]  # which ComfyUI divides by the rank again
        rows, found = len(patch.up), LoRAAdapter(set(), (patch.up, patch.down, alpha, None, None, None))
    key = f"{PREFIX}{name}"
    return (key if rows == len(parameter) else (key, (0, patch.start or 0, rows))), found


def _version(path: Path) -> Version:
    """Of the file and the settings beside it."""
    return version_of(path, [path, *lora.files_beside(path)])


def _check(version: Version) -> None:
    lora.check_lora(version.path)


@lru_cache(maxsize=2)
def _read(version: Version) -> Lora:
    """The file is kept for another strength."""
    return lora.read_lora(version.path)
