"""The shipped workflows that make a video of pictures, or join two clips."""

from mochi.hub.catalog import DIT_PUSA
from scripts.text_workflows import mochi_text_to_video, tiny_text_to_video
from scripts.workflow_format import Graph, Group, Link, Node
from scripts.workflow_parts import decode, download, note, save

PUSA = DIT_PUSA.name
RED, GRAY = 0xE61414, 0x808080  # as the tiny model knows them

TINY_IMAGE_NOTE = """## A video of a picture

Built-in nodes draw a red square; the video starts with it, and the **tiny model** moves it as the prompt says.

- Your own picture: drop it on the canvas. It comes in a **Load Image**; link that to *image*, in place of the drawn
  one. The tiny model knows one circle, square, triangle or star of one colour, on one background.
- *frame* says where in the video the picture stands: 0 is the first frame, -1 the last one.
- The published model's template is **mochi_image_to_video**.
"""

TINY_ENDS_NOTE = """## From one picture to another

The video starts with one picture and ends in another; the **tiny model** makes what is between them.

- Two **Mochi Image to Video**, one after the other, give *frame* 0 and *frame* -1. Further ones give frames between.
- Your own pictures: drop them on the canvas. Each comes in a **Load Image**; link these to *image*.
- The published model's template is **mochi_start_and_end**.
"""

TINY_TRANSITION_NOTE = """## A clip that comes back

The **tiny model** makes a clip. **Mochi Transition** begins with its last frames and ends with its first ones: behind
one another, clip and transition are a loop.

- Another clip in *second* makes a way from one to the other.
- The published model's template is **mochi_transition**, which loads two files.
"""

IMAGE_NOTE = """## A video of a picture, with Pusa V0.5

Drop your picture on **Load Image**. It is cropped in the middle to 848 x 480; the node shows what of it is used.

- The plain Mochi cannot do this: it takes **Pusa V0.5**, a Mochi that was trained so, in
  `models/diffusion_models/pusa_v0_dit.safetensors` (`python -m mochi download --variant pusa`; its size and checksum
  were not at hand). T5 and VAE are those of **mochi_text_to_video**.
- **strength** 1: the first frame is the picture. 0.6 moves more.
- **steps** 30 and **cfg** 4.5 are Pusa's own.
- Describe the whole scene, and what moves in it.
"""

ENDS_NOTE = """## From one picture to another, with Pusa V0.5

Drop a picture on each **Load Image**: the video starts with one and ends in the other.

- **strength** 0.7 and 0.3 are Pusa's own for start and end; 1 keeps a picture as it is.
- *frame* counts from 0, or from the end: -1 is the last one. Further nodes in the chain give frames between.
- Describe the whole scene, and how it changes.
- The models are those of **mochi_image_to_video**.
"""

TRANSITION_NOTE = """## From one clip to another, with Pusa V0.5

Choose a clip in each **Load Video**. The video begins with the last frames of the first one, and ends with the first
frames of the second.

- *overlap* says how many frames of each it has: 6k + 1, also 1.
- The same clip in both makes a loop.
- **ImageBatch** joins the clips with what is between them; **ImageFromBatch** leaves out the frames that are in both.
- Describe what the whole video shows.
- The models are those of **mochi_image_to_video**.
"""


def given(image: str, frame: int, strength: float, size: tuple[int, int, int], latent: str | None = None) -> Node:
    """Mochi Image to Video. size: width, height and frames. latent: a video with other given frames."""
    width, height, frames = size
    links = {"vae": Link("vae"), "image": Link(image), **({"latent": Link(latent)} if latent else {})}
    values = {"width": width, "height": height, "frames": frames, "frame": frame, "strength": strength}
    return Node("MochiParallelImageToVideo", {**links, **values}, height=480)


def transition(first: str, second: str, size: tuple[int, int, int]) -> Node:
    width, height, frames = size
    links = {"vae": Link("vae"), "first": Link(first), "second": Link(second)}
    values = {"width": width, "height": height, "frames": frames, "overlap": 7}
    strengths = {"first_strength": 0.9, "second_strength": 0.7}
    return Node("MochiParallelTransition", {**links, **values, **strengths}, height=560)


TINY_SIZE, PUBLISHED_SIZE = (64, 64, 25), (848, 480, 163)


def drawn_square(name: str, x: int) -> dict[str, Node]:
    """A picture of a red square, from nodes that every ComfyUI has. x: of its left edge."""
    place = {"destination": Link("background"), "source": Link("square"), "x": x, "y": 22, "resize_source": False}
    return {
        "background": filled("Background", 64, GRAY),
        "square": filled("Square", 20, RED),
        name: Node("ImageCompositeMasked", place, title="Picture"),
    }


def filled(title: str, side: int, colour: int) -> Node:
    return Node("EmptyImage", {"width": side, "height": side, "batch_size": 1, "color": colour}, title=title)


def of_pictures(graph: Graph, name: str, text: str, pictures: list[str], latent: str) -> Graph:
    """A text-to-video graph, that samples a video with given frames. pictures: the nodes that give them."""
    graph.name = name
    graph.nodes["note"] = note(text, 420)
    graph.nodes["sampler"].inputs["latent"] = Link(latent)
    graph.groups.insert(2, Group("Given frames", pictures))
    return graph


def tiny_image_to_video() -> Graph:
    graph = tiny_text_to_video()
    graph.nodes["positive"].inputs["prompt"] = "a red square moves right on a gray background"
    graph.nodes |= drawn_square("picture", 8)
    graph.nodes["given"] = given("picture", 0, 1.0, TINY_SIZE)
    graph.nodes["save"] = save(12.0, "video/mochi_tiny_image", 400, 545)
    graph = of_pictures(graph, "tiny_image_to_video", TINY_IMAGE_NOTE, ["given"], "given")
    graph.groups.insert(2, Group("A picture", ["background", "square", "picture"]))
    return graph


def tiny_start_and_end() -> Graph:
    graph = tiny_text_to_video()
    graph.nodes["positive"].inputs["prompt"] = "a red square moves right on a gray background"
    graph.nodes |= drawn_square("start", 6) | drawn_square("end", 28)
    graph.nodes["start"].title, graph.nodes["end"].title = "First frame", "Last frame"
    graph.nodes["first"] = given("start", 0, 1.0, TINY_SIZE)
    graph.nodes["last"] = given("end", -1, 1.0, TINY_SIZE, "first")
    graph.nodes["save"] = save(12.0, "video/mochi_tiny_ends", 400, 545)
    graph = of_pictures(graph, "tiny_start_and_end", TINY_ENDS_NOTE, ["first", "last"], "last")
    graph.groups.insert(2, Group("Two pictures", ["background", "square", "start", "end"]))
    return graph


def tiny_transition() -> Graph:
    """A clip, and the way from its end back to its beginning."""
    graph = tiny_text_to_video()
    graph.nodes["positive"].title = "Prompt of the clip"
    prompt = graph.nodes["positive"]
    back = {**prompt.inputs, "prompt": "a red circle moves right on a black background"}
    graph.nodes["back"] = Node(prompt.kind, back, 400, 140, "Prompt of the way back", prompt.colours)
    graph.nodes["joined"] = transition("decode", "decode", TINY_SIZE)
    links = {"positive": Link("back"), "latent": Link("joined")}
    sampler = graph.nodes["sampler"]
    graph.nodes["again"] = Node(sampler.kind, {**sampler.inputs, **links, "seed": 2}, height=sampler.height)
    graph.nodes["decoded"] = decode("again")
    graph.nodes["saved"] = save(12.0, "video/mochi_tiny_transition", 400, 545, "decoded")
    graph.name = "tiny_transition"
    graph.nodes["note"] = note(TINY_TRANSITION_NOTE, 330)
    graph.groups = [
        Group("Start here", ["note"]),
        Group("Models", ["t5", "dit", "vae"]),
        Group("Prompts", ["positive", "back", "negative"]),
        Group("A clip", ["sampler", "decode", "save"]),
        Group("The way back", ["joined", "again"]),
        Group("Video", ["decoded", "saved"]),
    ]
    return graph


def of_pusa() -> Graph:
    """The published model's graph with the checkpoint that takes given frames, and its own values."""
    graph = mochi_text_to_video()
    graph.nodes["dit"].inputs["file"] = PUSA
    graph.nodes["dit"].models = download(PUSA)
    graph.nodes["sampler"].inputs |= {"steps": 30, "cfg": 4.5}
    return graph


def picture(title: str) -> Node:
    return Node("LoadImage", {"image": "your_picture.png"}, height=320, title=title, outputs=2)


def mochi_image_to_video() -> Graph:
    graph = of_pusa()
    graph.nodes["picture"] = picture("Picture")
    graph.nodes["given"] = given("picture", 0, 1.0, PUBLISHED_SIZE)
    return of_pictures(graph, "mochi_image_to_video", IMAGE_NOTE, ["picture", "given"], "given")


def mochi_start_and_end() -> Graph:
    graph = of_pusa()
    graph.nodes |= {"start": picture("First frame"), "end": picture("Last frame")}
    graph.nodes["first"] = given("start", 0, 0.7, PUBLISHED_SIZE)
    graph.nodes["last"] = given("end", -1, 0.3, PUBLISHED_SIZE, "first")
    graph = of_pictures(graph, "mochi_start_and_end", ENDS_NOTE, ["first", "last"], "last")
    graph.groups.insert(2, Group("Two pictures", ["start", "end"]))
    return graph


def mochi_transition() -> Graph:
    graph = of_pusa()
    for name, title in (("first", "First clip"), ("second", "Second clip")):
        graph.nodes[name] = Node("LoadVideo", {"file": "your_video.mp4"}, height=360, title=title)
        graph.nodes[f"{name}_frames"] = Node("GetVideoComponents", {"video": Link(name)}, outputs=3)
    graph.nodes["joined"] = transition("first_frames", "second_frames", PUBLISHED_SIZE)
    graph = of_pictures(graph, "mochi_transition", TRANSITION_NOTE, ["joined"], "joined")
    graph.groups.insert(2, Group("Two clips", ["first", "first_frames", "second", "second_frames"]))
    return graph
