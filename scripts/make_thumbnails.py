"""Makes the pictures of the workflows in the editor's template browser, from what the workflows make.

`python -m scripts.make_thumbnails` (in the virtual environment) runs the tiny workflows in a ComfyUI. The published
model is too large for that: its workflow gets a title instead.
"""

import copy
import json
import shutil
import tempfile
from pathlib import Path

import av
from PIL import Image, ImageDraw, ImageFont

from scripts.client import ComfyClient
from scripts.comfyui import PROJECT, find_or_fetch_comfyui, prepare_base
from scripts.server import ComfyServer

WORKFLOWS = PROJECT / "workflows"
SIZE = 512
SHOWN = {
    "tiny_text_to_video": [
        "a red circle moves left on a black background",
        "a blue star drifts upwards over a white background",
        "a yellow triangle slides right on a brown background",
        "a green square moves down on a gray background",
    ],
    "mixed_with_builtin_nodes": [
        "a blue star drifts upwards over a white background",
        "a magenta square glides to the left on a black background",
        "a cyan circle moves down on a brown background",
        "a red triangle travels to the right on a gray background",
    ],
    "tiny_on_two_ranks": [
        "a yellow circle slides left on a gray background",
        "a magenta star moves down on a white background",
        "a green triangle drifts upwards over a black background",
        "a cyan square glides to the right on a brown background",
    ],
    "tiny_video_to_video": [
        "a red circle moves left on a black background",
        "a yellow star moves up on a white background",
    ],
    "tiny_edit": [
        "a green square moves right on a white background",
        "a red triangle moves down on a black background",
    ],
    "tiny_extend": [
        "a cyan star moves right on a black background",
        "a magenta circle moves down on a white background",
    ],
    "tiny_replace_area": [
        "a red circle moves left on a black background",
        "a yellow star moves down on a black background",
    ],
    "tiny_image_to_video": ["a red square moves right on a gray background"],
    "tiny_start_and_end": ["a red square moves right on a gray background"],
    "tiny_transition": ["a red circle moves left on a black background"],
    "tiny_skip_layer_guidance": [
        "a blue circle moves left on a white background",
        "a yellow star moves right on a brown background",
        "a magenta triangle moves up on a gray background",
        "a green square moves down on a black background",
    ],
}
# What opens in app mode is the same graph.
APPS = ("tiny_text_to_video", "mochi_text_to_video")
TITLES = {
    "mochi_text_to_video": [("Mochi 1", 84), ("text to video", 44), ("848 x 480, 163 frames", 32)],
    "mochi_video_to_video": [("Mochi 1", 84), ("video to video", 44), ("848 x 480, 163 frames", 32)],
    "mochi_edit": [("Mochi 1", 84), ("a clip edited by its words", 38), ("848 x 480, 163 frames", 32)],
    "mochi_extend": [("Mochi 1", 84), ("a clip that goes on", 42), ("848 x 480, 163 frames", 32)],
    "mochi_replace_area": [("Mochi 1", 84), ("an area made anew", 42), ("848 x 480, 163 frames", 32)],
    "mochi_image_to_video": [("Pusa V0.5", 84), ("image to video", 44), ("848 x 480, 163 frames", 32)],
    "mochi_start_and_end": [("Pusa V0.5", 84), ("start and end", 44), ("848 x 480, 163 frames", 32)],
    "mochi_transition": [("Pusa V0.5", 84), ("from clip to clip", 44), ("848 x 480, 163 frames", 32)],
    "mochi_skip_layer_guidance": [("Mochi 1", 84), ("skip-layer guidance", 42), ("848 x 480, 163 frames", 32)],
    "mochi_from_wrapper": [("Mochi 1", 84), ("from MochiWrapper", 44), ("848 x 480, 49 frames", 32)],
    "mochi_upscale_and_interpolate": [("Mochi 1", 84), ("larger and smoother", 44), ("1696 x 960, 60 a second", 32)],
    "mochi_prompt_enhancement": [("Mochi 1", 84), ("a prompt from an idea", 42), ("848 x 480, 163 frames", 32)],
    "mochi_text_to_video_4_gpus": [("Mochi 1", 84), ("on 4 GPUs", 44), ("848 x 480, 163 frames", 32)],
}


def with_prompt(api: dict, prompt: str) -> dict:
    """The graph with another prompt in its first text node; what is made of the clip is of another colour."""
    api = copy.deepcopy(api)
    node = next(node for node in api.values() if node["class_type"].endswith("TextEncode"))
    node["inputs"]["prompt" if "prompt" in node["inputs"] else "text"] = prompt
    for node in api.values():
        if node["_meta"]["title"] == "New prompt":
            node["inputs"]["prompt"] = " ".join(["a", "blue", *prompt.split()[2:]])
    return api


def frames_of(video: Path, count: int) -> list[Image.Image]:
    """The middle one, or several from the first to the last."""
    with av.open(str(video)) as container:
        frames = [frame.to_image() for frame in container.decode(video=0)]
    if count == 1:
        return [frames[len(frames) // 2]]
    return [frames[i * (len(frames) - 1) // (count - 1)] for i in range(count)]


def mosaic(pictures: list[Image.Image]) -> Image.Image:
    """Four pictures, two by two, each row from left to right."""
    tile, out = SIZE // 2, Image.new("RGB", (SIZE, SIZE))
    for index, picture in enumerate(pictures):
        out.paste(picture.resize((tile, tile), Image.Resampling.BICUBIC), (index % 2 * tile, index // 2 * tile))
    return out


def title(lines: list[tuple[str, int]]) -> Image.Image:
    """Lines of text, each with its height, on a dark ground."""
    shade = Image.linear_gradient("L").resize((SIZE, SIZE))
    out = Image.composite(Image.new("RGB", (SIZE, SIZE), "#101418"), Image.new("RGB", (SIZE, SIZE), "#2b4a6f"), shade)
    draw, y = ImageDraw.Draw(out), SIZE // 3
    for text, height in lines:
        draw.text((SIZE // 2, y), text, "white", ImageFont.load_default(height), anchor="mm")
        y += round(height * 1.4)
    return out


def main() -> None:
    for name, lines in TITLES.items():
        title(lines).save(WORKFLOWS / f"{name}.jpg", quality=90)
    with tempfile.TemporaryDirectory() as folder:
        base = prepare_base(Path(folder))
        with ComfyServer(find_or_fetch_comfyui(), base) as server:
            client = ComfyClient(server.url)
            for name, prompts in SHOWN.items():
                api = json.loads((WORKFLOWS / "api" / f"{name}.json").read_text(encoding="utf-8"))
                runs = [client.run(with_prompt(api, prompt)) for prompt in prompts]
                # A graph that makes a clip of another saves both.
                videos = [path for run in runs for path in run.paths(base / "output") if path.suffix == ".mp4"]
                pictures = [frame for video in videos for frame in frames_of(video, 4 // len(videos))]
                mosaic(pictures).save(WORKFLOWS / f"{name}.jpg", quality=90)
                print(WORKFLOWS / f"{name}.jpg")
    for name in APPS:
        shutil.copyfile(WORKFLOWS / f"{name}.jpg", WORKFLOWS / f"{name}.app.jpg")


if __name__ == "__main__":
    main()
