"""ComfyUI's VAE file: decoder and encoder together, each under its prefix; either may be absent."""

from __future__ import annotations

from .file import Entry, WeightFile
from .genmo import Parts, network_of


def under(prefix: str, entries: dict[str, Entry]) -> dict[str, Entry]:
    """The tensors under a prefix, without it."""
    return {name.removeprefix(prefix): entry for name, entry in entries.items() if name.startswith(prefix)}


def parts(file: WeightFile) -> Parts:
    """The networks in the file, or nothing when the layout is another."""
    found = {}
    for network in ("decoder", "encoder"):
        entries = under(f"{network}.", file.entries)
        if network_of(entries) == network:
            found[network] = entries
    return found
