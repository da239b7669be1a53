"""LoRA files in ComfyUI's folder. On a MODEL they become patches, as ComfyUI's own loaders make them."""

from functools import lru_cache
from pathlib import Path

import folder_paths
from comfy.model_patcher import ModelPatcher
from comfy.weight_adapter import LoRAAdapter

from ....mochi import lora
from ....mochi.errors import MochiError
from ....mochi.lora import Lora, LoraPatch
from ....mochi.lora.scale import PEFT_CONFIG
from ..checks import text_width
from ..folders import find_below
from ..unchanged import Version, check, version_of
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
    check(_check, _version(find_lora(name)))


def with_lora(model: ModelPatcher, path: Path, strength: float) -> ModelPatcher:
    """A clone of a MODEL with a LoRA. No weights of the MODEL are loaded again.

    Raises MochiError for a model that is no Mochi, CheckpointError for a file that is no LoRA for it.
    """
    text_width(model)  # is it a Mochi?
    loaded = _read(_version(path)).fitted(lora.layer_shapes(model.model.diffusion_model))
    patched = model.clone()
    if strength:
        # At once: each call makes a list of all the model's weights.
        adapters = {
            _key(layer, loaded.shapes[layer][0], patch): _adapter(patch)
            for layer, patches in loaded.layers.items()
            for patch in patches
        }
        patched.add_patches(adapters, strength)
    return patched


def _key(layer: str, rows: int, patch: LoraPatch) -> str | tuple[str, tuple[int, int, int]]:
    key = f"{PREFIX}{layer}.weight"
    return key if len(patch.up) == rows else (key, (0, patch.start or 0, len(patch.up)))


def _adapter(patch: LoraPatch) -> LoRAAdapter:
    alpha = patch.scale * patch.down.shape[0]  # which ComfyUI divides by the rank again
    return LoRAAdapter(set(), (patch.up, patch.down, alpha, None, None, None))


def _version(path: Path) -> Version:
    """Of the file and the settings beside it, where PEFT wrote both."""
    return version_of(path, [path, path.with_name(PEFT_CONFIG)])


def _check(version: Version) -> None:
    lora.check_lora(version.path)


@lru_cache(maxsize=2)
def _read(version: Version) -> Lora:
    """The file is kept for another strength."""
    return lora.read_lora(version.path)
