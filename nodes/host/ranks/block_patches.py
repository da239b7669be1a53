"""Model patches of ComfyUI's nodes that take over whole blocks, as far as ranks can do what they do."""

from collections.abc import Mapping
from typing import Any

import torch

from ....mochi.errors import MochiError


def skipped_blocks(options: Mapping[str, Any]) -> list[int]:
    """The numbers of the blocks that the patches leave out, as those of skip-layer guidance do.

    Raises MochiError where a patch does anything else: its code cannot run in the ranks.
    """
    patches = options.get("patches_replace", {}).get("dit", {})
    # Of longer keys (kind, number, part of the block) the model takes no notice.
    blocks = [(key[1], patch) for key, patch in patches.items() if key[0] == "double_block" and len(key) == 2]
    for number, patch in blocks:
        if not _leaves_out(patch, options):
            raise MochiError(
                f"A model patch ({patch.__module__}.{getattr(patch, '__qualname__', type(patch).__qualname__)}) takes "
                f"over block {number} of the network, but that is in other processes. Choose 1 GPU in Load AsymmDiT "
                "(Mochi), or remove the patch; skip-layer guidance is possible."
            )
    return sorted(number for number, _ in blocks)


class _Asked(Exception):
    """A patch has called the block that it is in place of."""


def _leaves_out(patch: Any, options: Mapping[str, Any]) -> bool:
    """Whether a patch gives both streams back as it got them, without a look at the block or at them."""
    img, txt = (torch.empty(1, 1, 1, device="meta") for _ in range(2))
    args = {"img": img, "txt": txt, "vec": None, "rotary": None, "text_lengths": (1,), "transformer_options": options}

    def original(_: dict[str, Any]) -> dict[str, Any]:
        raise _Asked

    try:
        out = patch(dict(args), {"original_block": original})
        return out["img"] is img and out["txt"] is txt
    except Exception:  # whatever it wanted to do with them
        return False
