"""The LoRA loader."""

from comfy_api.latest import io

from . import widgets
from .host.checks import check_range, complaint
from .host.sockets.lora import check_lora, find_lora, list_loras, with_lora
from .host.types import Model

STRONGEST = 10.0


class LoadLoRA(widgets.Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return widgets.schema(
            "MochiParallelLoadLoRA",
            "Load LoRA (Mochi)",
            "Puts a LoRA on a Mochi model, in any of the formats that trainers write. For several, put one node behind "
            "the other.",
            found_as=("lora loader", "adapter", "style"),
            inputs=[
                io.Model.Input("model", tooltip="From Load AsymmDiT (Mochi), or ComfyUI's own Mochi model."),
                io.Combo.Input(
                    "file",
                    options=list_loras(),
                    tooltip="A safetensors file in models/loras: of Mochi's own trainer, diffusers, PEFT or kohya.",
                ),
                widgets.number(
                    "strength",
                    1.0,
                    (-STRONGEST, STRONGEST),
                    "1: as it was trained. 0: not at all. Below 0: the opposite.",
                    step=0.05,
                    round=0.001,
                ),
            ],
            outputs=[io.Model.Output(tooltip="The model with the LoRA.")],
        )

    @classmethod
    def validate_inputs(cls, file: str, strength: float = 1.0) -> bool | str:
        return (
            complaint(check_lora, file) or complaint(check_range, "strength", strength, -STRONGEST, STRONGEST) or True
        )

    @classmethod
    def execute(cls, model: Model, file: str, strength: float) -> io.NodeOutput:
        return io.NodeOutput(with_lora(model, find_lora(file), strength))
