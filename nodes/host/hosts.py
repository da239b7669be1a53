"""Where the ComfyUIs that this pack runs in differ. All other files are written for all of them."""

from collections.abc import Callable
from typing import Any

import comfy.model_patcher
from comfy.model_patcher import ModelPatcher


def core_patcher(dynamic: bool = True) -> type[ModelPatcher]:
    """The kind of patcher that the host gives its own models.

    A newer host has another one on NVIDIA GPUs, with dynamic VRAM: it brings the weights of a layer when the layer
    runs, and knows no hooks and no torch.compile.

    dynamic: False for the plain kind.
    """
    kind: Any = getattr(comfy.model_patcher, "CoreModelPatcher", ModelPatcher) if dynamic else ModelPatcher
    return kind


def remember_loader(patcher: ModelPatcher, load: Callable[..., ModelPatcher], *arguments: Any) -> None:
    """Tell the host how to make a patcher anew: by `load(*arguments)`, or `load(*arguments, disable_dynamic=True)`.

    A newer host does so to have the weights once more, pristine: on another device (MultiGPU CFG Split and the nodes
    that select a device), to train a LoRA, and for hooks and torch.compile. An older one does not ask.
    """
    newer: Any = patcher
    newer.cached_patcher_init = (load, arguments)


class _OwnParameters:
    """A layer of the host with a way of its own to read a state dict: torch's."""

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)  # pyright: ignore[reportAttributeAccessIssue]  # of nn.Module


def with_parameters(operations: type) -> type:
    """The host's layers, each made with its parameters.

    A host with dynamic VRAM makes some without, and has a state dict bring them, unless a layer has a way of its own
    to read one. Here names and shapes are compared with those of a file before any weight is read.
    """
    layers = {name: type(name, (_OwnParameters, getattr(operations, name)), {}) for name in ("Linear", "Embedding")}
    return type("Operations", (operations,), layers)
