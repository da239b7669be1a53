"""What the command lines of Genmo's own repository call things: https://github.com/genmoai/mochi, `demos/cli.py`."""

from collections.abc import Collection, Mapping
from typing import Any

from ..errors import MochiError

OURS = {
    "negative_prompt": "negative",
    "num_frames": "frames",
    "num_steps": "steps",
    "cfg_scale": "cfg",
    "lora_path": "lora",
    "sweep_file": "jsonl",
    "out_dir": "folder",
}
"""Published names of options, and our names for the same. The other published options are called the same here."""

IN_HELP = f"Genmo's own names are understood: {', '.join(f'--{name} is --{own}' for name, own in OURS.items())}."

LEMON = (
    "A hand with delicate fingers picks up a bright yellow lemon from a wooden bowl filled with lemons and sprigs of "
    "mint against a peach-colored background. The hand gently tosses the lemon up and catches it, showcasing its "
    "smooth texture. A beige string bag sits beside the bowl, adding a rustic touch to the scene. Additional lemons, "
    "one halved, are scattered around the base of the bowl. The even lighting enhances the vibrant colors and creates "
    "a fresh, inviting atmosphere."
)
"""The prompt of the example in Genmo's readme, which the published demo takes where it is given none."""


def in_our_names(values: Mapping[str, Any], known: Collection[str]) -> dict[str, Any]:
    """Settings by our names, whichever they had. Raises MochiError on one that is there by both.

    known: the settings that there are, by our names.
    """
    names = {name: own for name, own in OURS.items() if own in known and name in values}
    for name, own in names.items():
        if own in values:
            raise MochiError(f"{name} and {own} are the same setting: give one")
    return {names.get(name, name): value for name, value in values.items()}
