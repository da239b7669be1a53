"""The shipped workflows that keep a part of a clip and make the rest."""

from scripts.edit_workflows import denoised, with_a_clip, with_a_file
from scripts.text_workflows import mochi_text_to_video, tiny_text_to_video
from scripts.workflow_format import Graph, Group, Link, Node
from scripts.workflow_parts import TINY_PROMPT, decode, encode, note, save

TINY_EXTEND_NOTE = """## A clip that goes on

The **tiny model** makes a clip, whose first 13 frames are kept. **Mochi Extend** makes room behind them, and the
sampler goes on with them: the same shape moves on.

- *length* in **ImageFromBatch** (1, 7, 13 or 19) says how much is kept.
- The published model's template is **mochi_extend**, which loads a file.
"""

TINY_AREA_NOTE = """## An area of a clip made anew

The **tiny model** makes a clip. **Mochi Noise Mask** marks its right half, which is made anew; the left half stays.

- *x*, *y* and the sizes of the masks say where. One mask for each frame makes an area that moves.
- The published model's template is **mochi_replace_area**, which loads a file.
"""

EXTEND_NOTE = """## A clip that goes on, with Mochi 1

Choose your clip in **Load Video**. 61 of its frames are kept, 2 seconds at 30 a second; Mochi makes 102 more.

- A shorter clip: set *length* to 6k + 1 frames that it has (25, 31, 55, ...).
- To go on from the end of a longer clip set *batch_index* to where its last 61 frames begin. **ImageBatch** joins the
  frames before that with those of **Mochi VAE Decode**.
- *length* 1, or **Load Image** instead of the clip, starts from a picture. The prompt then has to say what moves.
- Describe the whole scene, as it is and as it goes on.
- The models are those of **mochi_text_to_video**.
"""

AREA_NOTE = """## An area of a clip made anew with Mochi 1

Choose your clip in **Load Video**: its first 163 frames are cut to 848 x 480. *x*, *y* and the sizes of the masks say
which area is made anew; here it is the right half.

- A mask that you paint (**Load Image**, *Open in MaskEditor*) or one for each frame fits into **Mochi Noise Mask** too.
- A shorter clip: set *length* to 6k + 1 frames that it has (25, 61, 121, ...).
- *denoise* below 1 keeps something of what was there.
- Describe the whole scene, with what is new in it.
- **ImageCompositeMasked** behind **Mochi VAE Decode** puts the original frames back outside the area, to the pixel.
- The models are those of **mochi_text_to_video**.
"""


def tiny_extend() -> Graph:
    """The beginning of a clip, gone on with."""
    graph = with_a_clip(tiny_text_to_video(), TINY_PROMPT)
    graph.name = "tiny_extend"
    del graph.nodes["target"]
    graph.groups[2].nodes.remove("target")
    graph.nodes["positive"].title = "Prompt"
    graph.nodes["note"] = note(TINY_EXTEND_NOTE, 330)
    graph.nodes["first"] = Node("ImageFromBatch", {"image": Link("decode"), "batch_index": 0, "length": 13})
    graph.nodes["encode"] = encode("first")
    graph.nodes["longer"] = Node("MochiParallelExtend", {"samples": Link("encode"), "frames": 25})
    return made_again(graph, "positive", "longer", "video/mochi_tiny_extend", ["first", "encode", "longer"])


def tiny_replace_area() -> Graph:
    """The right half of a clip, made anew."""
    graph = with_a_clip(tiny_text_to_video(), "a blue square moves up on a black background")
    graph.name = "tiny_replace_area"
    graph.nodes["note"] = note(TINY_AREA_NOTE, 330)
    graph.nodes |= rectangle(64, 64, 32, 0, 32, 64)
    graph.nodes["masked"] = Node("MochiParallelNoiseMask", {"samples": Link("encode"), "mask": Link("area")})
    mask = ["encode", "black", "white", "area", "masked"]
    return made_again(graph, "target", "masked", "video/mochi_tiny_area", mask)


def made_again(graph: Graph, prompt: str, latent: str, prefix: str, before: list[str]) -> Graph:
    """A clip's graph, with what makes another clip of the latents, all anew but what their mask keeps."""
    graph.nodes["again"] = denoised(graph.nodes["sampler"], latent, 1.0)
    graph.nodes["again"].inputs["positive"] = Link(prompt)
    graph.nodes["decoded"] = decode("again")
    graph.nodes["saved"] = save(12.0, prefix, 400, 545, "decoded")
    graph.groups[-1:] = [Group("What is made anew", before), Group("Another clip", ["again", "decoded", "saved"])]
    return graph


def rectangle(width: int, height: int, x: int, y: int, wide: int, high: int) -> dict[str, Node]:
    """A mask of a picture, white in a rectangle."""
    place = {"destination": Link("black"), "source": Link("white"), "x": x, "y": y, "operation": "add"}
    return {
        "black": Node("SolidMask", {"value": 0.0, "width": width, "height": height}, title="What stays"),
        "white": Node("SolidMask", {"value": 1.0, "width": wide, "height": high}, title="What is made anew"),
        "area": Node("MaskComposite", place, title="Where it is"),
    }


def mochi_extend() -> Graph:
    graph = with_a_file(mochi_text_to_video())
    graph.name = "mochi_extend"
    graph.nodes["note"] = note(EXTEND_NOTE, 420)
    graph.nodes["first"].inputs["length"] = 61
    graph.nodes["longer"] = Node("MochiParallelExtend", {"samples": Link("encode"), "frames": 163})
    graph.nodes["sampler"] = denoised(graph.nodes["sampler"], "longer", 1.0)
    graph.nodes["sampler"].inputs["positive"] = Link("positive")
    graph.groups[2].nodes.append("longer")
    return graph


def mochi_replace_area() -> Graph:
    graph = with_a_file(mochi_text_to_video())
    graph.name = "mochi_replace_area"
    graph.nodes["note"] = note(AREA_NOTE, 440)
    graph.nodes |= rectangle(848, 480, 424, 0, 424, 480)
    graph.nodes["masked"] = Node("MochiParallelNoiseMask", {"samples": Link("encode"), "mask": Link("area")})
    graph.nodes["sampler"] = denoised(graph.nodes["sampler"], "masked", 1.0)
    graph.nodes["sampler"].inputs["positive"] = Link("positive")
    graph.groups.insert(3, Group("What is made anew", ["black", "white", "area", "masked"]))
    return graph
