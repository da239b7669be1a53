"""Prompts to CONDITIONING."""

from comfy_api.latest import io

from . import widgets
from .host.sockets.text import encode_prompt
from .host.types import Clip


class TextEncode(widgets.Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return widgets.schema(
            "MochiParallelTextEncode",
            "Mochi Text Encode",
            "Encodes a prompt the way Mochi 1 was trained: literally, up to 256 tokens. An empty prompt means no text "
            "at all, which is what the negative prompt usually wants.",
            found_as=("prompt", "clip text encode", "conditioning"),
            inputs=[
                io.Clip.Input("clip", tooltip="A T5 from Load T5 (Mochi), or the built-in Load CLIP with type mochi."),
                io.String.Input(
                    "prompt",
                    multiline=True,
                    dynamic_prompts=True,
                    default="",
                    tooltip="What the video shows. Weights such as (word:1.2) mean nothing to Mochi and are read as "
                    "text. Beyond 256 tokens the end is cut off, with a warning in the log.",
                ),
            ],
            outputs=[
                io.Conditioning.Output(tooltip="Positive or negative, for Mochi Sampler or any sampler of ComfyUI.")
            ],
        )

    @classmethod
    def execute(cls, clip: Clip, prompt: str) -> io.NodeOutput:
        return io.NodeOutput(encode_prompt(clip, prompt))
