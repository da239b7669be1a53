"""The shipped workflows that make a video from words."""

from scripts.workflow_format import Graph, Link, Node
from scripts.workflow_parts import TINY, TINY_PROMPT, columns, decode, download, loaders, note, prompts, sampler, save

TINY_NOTE = """## A video in seconds, without a download

The **tiny model** comes with this pack. It draws one coloured shape that moves, and it obeys its prompt:

- shapes: circle, square, triangle, star
- colours: red, green, blue, yellow, magenta, cyan
- directions: left, right, up, down
- backgrounds: black, white, gray, brown

Press **Run**. Then change the prompt: *a blue star drifts upwards over a white background*.

For the real model open the template **mochi_text_to_video**: it is the same graph.
"""

PUBLISHED_NOTE = """## Mochi 1: 5.4 seconds at 848 x 480

Files, which the editor offers to download:

- `models/diffusion_models/mochi_preview_bf16.safetensors` (20 GB)
- `models/text_encoders/t5xxl_fp16.safetensors` (9.8 GB)
- `models/vae/mochi_vae.safetensors` (0.9 GB)

The files as Genmo published them (`dit.safetensors`, `decoder.safetensors`) work too.

- **steps** 64 and **cfg** 6 are Mochi's own; 30 steps are a quick look.
- **frames** 6k + 1 at 30 a second: 37 are 1.2 s, 163 are 5.4 s.
- Describe the scene as you would to a camera crew. The negative prompt stays empty.
"""

MIXED_NOTE = """## The same sockets as everywhere

MODEL, CLIP, VAE, LATENT and CONDITIONING are ComfyUI's own: any node here can be exchanged for a built-in one.

The **Mochi loaders** feed CLIP Text Encode, KSampler and VAE Decode. LoRA loaders, model patches and the custom
samplers fit in between.

KSampler with **euler** and **linear_quadratic** makes what Mochi Sampler makes with as many steps.
"""

TWO_RANKS_NOTE = """## One video, two processes

**gpus** is 2 in both loaders: two processes make the video together, each half of the work. On a machine without GPUs
they run on the CPU, so that this can be tried anywhere.

- The first prompt starts them, which takes some seconds; then they stay.
- The sampler says what they do; **Mochi Group Status** shows them.
- Cancel, LoRA, other samplers, "Unload models": all as with one.

The latents are those of **tiny_text_to_video**, to the rounding.
"""

FOUR_GPUS_NOTE = """## Mochi 1 on 4 GPUs

One video, made by 4 GPUs of this machine together. The files are those of **mochi_text_to_video**.

- **Mochi Parallel Settings** is linked to both loaders, in place of their *gpus*. Write *all*, another number, or which
  GPUs: *0,1,3*.
- *guidance* and *ulysses* are best left on *auto*: two GPUs for the prompt, two for the negative prompt.
- Cards with less than 32 GB: *weights* sharded, or offloaded.
- The first prompt starts a process for each GPU and loads the weights; the next ones find them there.
"""


TINY_SKIP_NOTE = """## Skip-layer guidance

At each step the **tiny model** runs a third time, with a layer left out, and is guided away from what that shows.

- **stg_scale** says how far. 0 is off; then the graph is **tiny_text_to_video**.
- **stg_layers**: which of its 6 layers, counted from 0.
- The published model's template is **mochi_skip_layer_guidance**.
"""

SKIP_NOTE = """## Mochi 1 with skip-layer guidance

At each step the model runs a third time, with layer 34 of its 48 left out, and is guided away from what that shows:
sharper pictures for half as much work again.

- **stg_scale** 1 and **stg_layers** 34 are the values that were published for Mochi.
- Several GPUs share the three runs: of 3 or 6 each takes part in one.
- The models are those of **mochi_text_to_video**.
"""


def tiny_text_to_video() -> Graph:
    nodes = {
        "note": note(TINY_NOTE, 440),
        **loaders(TINY, TINY, TINY),
        **prompts("MochiParallelTextEncode", "prompt", TINY_PROMPT),
        "sampler": sampler(seed=1, steps=16, cfg=4.0, width=64, height=64, frames=25),
        "decode": decode(),
        "save": save(12.0, "video/mochi_tiny", 400, 545),
    }
    return Graph("tiny_text_to_video", nodes, columns("Start here"))


def mochi_text_to_video() -> Graph:
    prompt = (
        "A red fox trots through a snowy birch forest at sunrise. Its breath steams in the cold air and powder snow "
        "flies up from its paws. The camera glides beside it at the height of its eyes; golden light flickers between "
        "the white trunks. Shallow depth of field, natural colours, the look of a nature documentary."
    )
    files = ("t5xxl_fp16.safetensors", "mochi_preview_bf16.safetensors", "mochi_vae.safetensors")
    nodes = {
        "note": note(PUBLISHED_NOTE, 460),
        **loaders(*files),
        **prompts("MochiParallelTextEncode", "prompt", prompt, height=200),
        "sampler": sampler(seed=1, steps=64, cfg=6.0, width=848, height=480, frames=163),
        "decode": decode(),
        "save": save(30.0, "video/mochi", 720, 580),
    }
    for node, file in zip(("t5", "dit", "vae"), files):
        nodes[node].models = download(file)
    return Graph("mochi_text_to_video", nodes, columns("Mochi 1"))


def tiny_app() -> Graph:
    """The tiny graph as a form: the prompt above, Run below, the video beside it."""
    return as_app(tiny_text_to_video(), "tiny_text_to_video.app")


def mochi_app() -> Graph:
    return as_app(mochi_text_to_video(), "mochi_text_to_video.app")


def as_app(graph: Graph, name: str) -> Graph:
    sampling = ("seed", "steps", "cfg", "width", "height", "frames")
    graph.name, graph.app = name, [("positive", "prompt"), *(("sampler", widget) for widget in sampling)]
    return graph


def tiny_skip_layer_guidance() -> Graph:
    return guided(tiny_text_to_video(), "tiny_skip_layer_guidance", "3", note(TINY_SKIP_NOTE, 330))


def mochi_skip_layer_guidance() -> Graph:
    return guided(mochi_text_to_video(), "mochi_skip_layer_guidance", "34", note(SKIP_NOTE, 330))


def guided(graph: Graph, name: str, layers: str, text: Node) -> Graph:
    """The same graph with skip-layer guidance."""
    graph.name, graph.nodes["note"] = name, text
    graph.nodes["sampler"].inputs |= {"stg_scale": 1.0, "stg_layers": layers}
    return graph


def tiny_on_two_ranks() -> Graph:
    graph = tiny_text_to_video()
    graph.name, graph.groups = "tiny_on_two_ranks", columns("Two ranks")
    graph.nodes |= loaders(TINY, TINY, TINY, gpus="2")
    graph.nodes["note"] = note(TWO_RANKS_NOTE, 400)
    return telling_of_ranks(graph)


def mochi_text_to_video_4_gpus() -> Graph:
    split = {"guidance": "auto", "ulysses": 0, "weights": "auto", "timeout": 600.0}
    one_machine = {"cluster": "", "machines": 0, "interface": "", "send_weights": False}
    graph = mochi_text_to_video()
    graph.name, graph.groups = "mochi_text_to_video_4_gpus", columns("Mochi 1 on 4 GPUs")
    for name in ("dit", "vae"):
        graph.nodes[name].inputs["parallel"] = Link("parallel")
    graph.nodes["parallel"] = Node("MochiParallelSettings", {"gpus": "4", **split, **one_machine})
    graph.nodes["note"] = note(FOUR_GPUS_NOTE, 420)
    return telling_of_ranks(graph)


def telling_of_ranks(graph: Graph) -> Graph:
    """With a node that tells of the ranks when the video is there, and room for what they tell while they decode."""
    graph.nodes["decode"].width = 400
    graph.nodes["status"] = Node("MochiParallelGroupStatus", {"after": Link("decode")}, width=400, height=180)
    return graph


def mixed_with_builtin_nodes() -> Graph:
    links = {"model": Link("dit"), "positive": Link("positive"), "negative": Link("negative")}
    values = {"seed": 1, "steps": 16, "cfg": 4.0, "sampler_name": "euler", "scheduler": "linear_quadratic"}
    size = {"width": 64, "height": 64, "length": 25, "batch_size": 1}
    nodes = {
        "note": note(MIXED_NOTE, 340),
        **loaders(TINY, TINY, TINY),
        **prompts("CLIPTextEncode", "text", "a blue star drifts upwards over a white background"),
        "size": Node("EmptyMochiLatentVideo", size),
        "sampler": Node("KSampler", {**links, **values, "latent_image": Link("size"), "denoise": 1.0}),
        "decode": Node("VAEDecode", {"samples": Link("sampler"), "vae": Link("vae")}),
        "save": save(12.0, "video/mochi_mixed", 400, 545),
    }
    return Graph("mixed_with_builtin_nodes", nodes, columns("Mix and match"))
