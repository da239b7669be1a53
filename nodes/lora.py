"""The LoRA loader."""

from __future__ import annotations

import math

from comfy_api.latest import io

from ..mochi.errors import MochiError
from .host.checks import complaint
from .host.sockets.lora import check_lora, find_lora, list_loras, with_lora
from .host.sockets.lora_names import teach_names
from .search import also_found_as

CATEGORY = "Mochi"
STRONGEST = 10.0

teach_names()


class LoadLoRA(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MochiLoadLoRA",
            display_name="Load LoRA (Mochi)",
            category=CATEGORY,
            **also_found_as("lora loader", "adapter", "style"),
            description="Puts a LoRA on a Mochi model, in any of the formats that trainers write. For several, put one "
            "node behind the other.",
            inputs=[
                io.Model.Input("model", tooltip="From Load AsymmDiT (Mochi), or ComfyUI's own Mochi model."),
                io.Combo.Input(
                    "file",
                    options=list_loras(),
                    tooltip="A safetensors file in models/loras: of Mochi's own trainer, diffusers, PEFT or kohya.",
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=-STRONGEST,
                    max=STRONGEST,
                    step=0.05,
                    round=0.001,
                    tooltip="1: as it was trained. 0: not at all. Below 0: the opposite.",
                ),
            ],
            outputs=[io.Model.Output(tooltip="The model with the LoRA.")],
        )

    @classmethod
    def validate_inputs(cls, file: str, strength: float = 1.0) -> bool | str:
        problem = complaint(check_lora, file)
        return problem if problem is not True else complaint(_check_strength, strength)

    @classmethod
    def execute(cls, model: object, file: str, strength: float) -> io.NodeOutput:
        return io.NodeOutput(with_lora(model, find_lora(file), strength))


def _check_strength(strength: float) -> None:
    if not (math.isfinite(strength) and abs(strength) <= STRONGEST):
        raise MochiError(f"strength is {strength}, but must be between {-STRONGEST:g} and {STRONGEST:g}.")
