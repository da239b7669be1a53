"""The published layout: one network in a file, under its own names. ComfyUI's AsymmDiT and GGUF files have it too."""

from ..lazy import LazyTensors

Parts = dict[str, LazyTensors]
"""Part ("dit", "decoder", "encoder", "t5") -> tensors by published name."""

SIGNATURES = {
    "dit": ("pos_frequencies", "x_embedder.proj.weight", "t5_yproj.weight"),
    "decoder": ("blocks.0.0.weight", "blocks.0.1.stack.0.weight", "output_proj.weight"),
    "encoder": ("layers.0.weight", "layers.1.stack.0.weight", "output_norm.weight"),
}


def network_of(entries: LazyTensors) -> str | None:
    """Which network has tensors of these names."""
    for network, signature in SIGNATURES.items():
        if all(name in entries for name in signature):
            return network
    return None


def under(prefix: str, entries: LazyTensors) -> LazyTensors:
    """The tensors under a prefix, without it."""
    return {name.removeprefix(prefix): entry for name, entry in entries.items() if name.startswith(prefix)}


def parts(tensors: LazyTensors) -> Parts:
    """The network in a file, or nothing when the layout is another."""
    network = network_of(tensors)
    return {network: tensors} if network else {}
