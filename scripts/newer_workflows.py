"""Shipped workflows with built-in nodes that the oldest supported ComfyUI does not have yet."""

from scripts.text_workflows import mochi_text_to_video
from scripts.workflow_format import Graph, Group, Link, Node
from scripts.workflow_parts import BLUE, GREEN, note, save

LARGER_NOTE = """## Larger and smoother

Mochi makes 848 x 480 at 30 frames a second. ComfyUI's own nodes, behind **Mochi VAE Decode**, make 1696 x 960 at 60.

- **Load Upscale Model**: `models/upscale_models/RealESRGAN_x4plus.safetensors` (67 MB) makes each frame 4 times as
  wide, and *Upscale Image By* halves that.
- **Load Frame Interpolation Model**: `models/frame_interpolation/film_net_fp16.safetensors` puts a frame between two.
- **fps** in Mochi Save Video is 30 times *multiplier*. With 30 it is slow motion.
- 163 frames take about 24 GB of main memory here, 61 frames 9 GB. *scale_by* changes little of that: the frames are 4
  times as wide before it.
- A blurred video stays blurred: see docs/quality.md first.

Frame interpolation needs a newer ComfyUI than 0.3.75. Without it, link **Upscale Image By** to Mochi Save Video, at 30.
"""

WORDS_NOTE = """## From an idea to a prompt

Mochi follows long, literal descriptions best. Here a language model writes one of a few words.

- **Your idea**: what is to be seen, in any language that the language model knows.
- **Load CLIP**: `models/text_encoders/qwen3.5_2b_bf16.safetensors`, which the editor offers to download. Any text model
  that *Generate Text* takes will do: a larger one writes better.
- **Preview as Text** shows what Mochi got. The same idea gives the same words; *Sampling Mode* on, with another seed,
  gives others.
- Mochi reads 256 tokens, about 180 words. What is beyond is not read.
- The other models are those of **mochi_text_to_video**.

*Generate Text* needs a newer ComfyUI than 0.3.75.
"""

INSTRUCTION = (
    "Describe a short video for a text-to-video model, in English, in one paragraph of 80 to 120 words. Say what is "
    "seen and nothing else: the subject and how it looks, what it does from the beginning to the end, the place, the "
    "light, and how the camera is held or moves. It is one uncut, photorealistic shot. Keep all that the idea says; "
    "leave out sounds, feelings and on-screen text. Answer with the paragraph alone. The idea:"
)


def offered(repository: str, file: str, folder: str) -> list[dict[str, str]]:
    """The hint by which the editor offers a model that another node than ours reads."""
    url = f"https://huggingface.co/Comfy-Org/{repository}/resolve/main/{file}?download=true"
    return [{"name": file.rpartition("/")[2], "url": url, "directory": folder}]


def mochi_upscale_and_interpolate() -> Graph:
    upscaler = offered("Real-ESRGAN_repackaged", "RealESRGAN_x4plus.safetensors", "upscale_models")
    between = offered("frame_interpolation", "frame_interpolation/film_net_fp16.safetensors", "frame_interpolation")
    graph = mochi_text_to_video()
    graph.name, graph.newer = "mochi_upscale_and_interpolate", {"FrameInterpolationModelLoader", "FrameInterpolate"}
    graph.nodes |= {
        "note": note(LARGER_NOTE, 560),
        "upscaler": Node("UpscaleModelLoader", {"model_name": upscaler[0]["name"]}, models=upscaler),
        "upscale": Node("ImageUpscaleWithModel", {"upscale_model": Link("upscaler"), "image": Link("decode")}),
        "halve": Node("ImageScaleBy", {"image": Link("upscale"), "upscale_method": "area", "scale_by": 0.5}),
        "between": Node("FrameInterpolationModelLoader", {"model_name": between[0]["name"]}, models=between),
        "smooth": Node("FrameInterpolate", {"interp_model": Link("between"), "images": Link("halve"), "multiplier": 2}),
        "save": save(60.0, "video/mochi", 720, 580, "smooth"),
    }
    graph.groups = [
        Group("Mochi 1", ["note"]),
        Group("Models", ["t5", "dit", "vae"]),
        Group("Prompts", ["positive", "negative"]),
        Group("Sampling", ["sampler", "decode"]),
        Group("Larger and smoother", ["upscaler", "upscale", "halve", "between", "smooth"]),
        Group("Video", ["save"]),
    ]
    return graph


def mochi_prompt_enhancement() -> Graph:
    writer = offered("Qwen3.5", "text_encoders/qwen3.5_2b_bf16.safetensors", "text_encoders")
    texts = {"string_a": INSTRUCTION, "string_b": Link("idea"), "delimiter": " "}
    answer = {"max_length": 256, "sampling_mode": "off", "thinking": False, "use_default_template": True}
    graph = mochi_text_to_video()
    graph.name, graph.newer = "mochi_prompt_enhancement", {"TextGenerate"}
    graph.nodes["positive"].inputs["prompt"] = Link("write")
    graph.nodes |= {
        "note": note(WORDS_NOTE, 480),
        "idea": Node("PrimitiveStringMultiline", {"value": "a fox in the snow"}, 400, 120, "Your idea", GREEN),
        "writer": Node(
            "CLIPLoader",
            {"clip_name": writer[0]["name"], "type": "stable_diffusion", "device": "default"},
            400,
            title="Language model",
            models=writer,
        ),
        "ask": Node("StringConcatenate", texts, 400, 300, "What it is asked", BLUE),
        "write": Node("TextGenerate", {"clip": Link("writer"), "prompt": Link("ask"), **answer}, 400, 300),
        "shown": Node("PreviewAny", {"source": Link("write")}, 400, 240, outputs=0),
    }
    graph.groups = [
        Group("Mochi 1", ["note"]),
        Group("Models", ["t5", "dit", "vae"]),
        Group("From an idea to a prompt", ["idea", "writer", "ask", "write"]),
        Group("Prompts", ["shown", "positive", "negative"]),
        Group("Sampling", ["sampler"]),
        Group("Video", ["decode", "save"]),
    ]
    return graph
