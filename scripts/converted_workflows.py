"""Shipped workflows that are graphs of other packs, made of our nodes: see docs/coming-from.md."""

from mochi.hub.catalog import DIT_Q8, T5_FP8, VAE_BOTH
from scripts.workflow_format import Graph
from scripts.workflow_parts import columns, decode, download, loaders, note, prompts, sampler, save

WRAPPER_NOTE = """## From ComfyUI-MochiWrapper

Its example of 49 frames in 16 GB, made of our nodes: the same weights, size, steps, cfg and schedule.

- The GGUF file in `models/diffusion_models` is the one that (Down)load Mochi Model reads.
- **Mochi VAE Decode** streams: there are no tiles to choose, and no seams.
- Load CLIP of type *mochi* can stand in for **Load T5**, KSampler for **Mochi Sampler**: every socket is ComfyUI's own.
- **gpus** above 1, in both loaders: the cards make this video together.

All of its nodes and ours: docs/coming-from.md.
"""


def mochi_from_wrapper() -> Graph:
    prompt = "Nature documentary: a red panda sits in front of a waterfall and eats bamboo, leaf by leaf."
    files = {"t5": T5_FP8.name, "dit": DIT_Q8.name, "vae": VAE_BOTH.name}
    nodes = {
        "note": note(WRAPPER_NOTE, 460),
        **loaders(*files.values()),
        **prompts("MochiParallelTextEncode", "prompt", prompt, height=200),
        "sampler": sampler(seed=0, steps=30, cfg=4.5, width=848, height=480, frames=49),
        "decode": decode(),
        "save": save(24.0, "Mochi_preview", 720, 580),
    }
    for node, file in files.items():
        nodes[node].models = download(file)
    return Graph("mochi_from_wrapper", nodes, columns("From MochiWrapper"))
