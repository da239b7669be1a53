"""diffusers' and ComfyUI's networks with the same weights and inputs, where they are installed."""

from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from mochi.dit import PLAIN, AsymmDiT, BlockRunner
from mochi.kernels import without_kernels
from mochi.vae import Decoder, Encoder
from scripts.comfyui import HostError, find_or_fetch_comfyui
from tests.exact import relative_error
from tests.peers.comfyui import comfyui_dit
from tests.random_weights import randomised

from .measuring import all_kernels_ran, milliseconds, peak
from .setting import Part, Setting

FRAMES = 8
"""Latent frames that are decoded: diffusers decodes a video as a whole, and a long one takes more than there is."""


def section(s: Setting) -> Iterator[Part]:
    yield from denoisers(s)
    yield from decoders(s)


def denoisers(s: Setting) -> Iterator[Part]:
    """4 blocks. Theirs encode the prompt in each pass, as ours do here; our sampler does so once a run."""
    ours = s.made(AsymmDiT, s.few_blocks())
    z, sigma = s.random(*s.latents), torch.full((1,), 0.7, device=s.device)
    features = s.random(1, s.text, s.dit.text_width)
    mask = torch.ones(1, s.text, dtype=torch.bool, device=s.device)
    rotary = ours.rotary(*s.latents[2:])

    def run(runner: BlockRunner = PLAIN) -> Tensor:
        return ours(z, sigma, ours.encode_text(features, mask), rotary, runner)

    race = Race(s, run)
    yield "denoiser: ours", lambda: race.ours(run)
    yield "denoiser: ours without kernels", partial(race.eager, run)

    theirs: dict[str, nn.Module] = {}

    def diffusers() -> Tensor:
        return theirs["diffusers"](z, features, 1000 * (1 - sigma), mask, return_dict=False)[0]

    def with_diffusers() -> dict[str, Any]:
        if reason := no_diffusers():
            return reason
        from tests.peers.diffusers import diffusers_dit

        with torch.device(s.device):
            theirs["diffusers"] = diffusers_dit(ours).to(s.dtype)
        theirs["diffusers"].pos_frequencies.data = ours.pos_frequencies.data  # as it loads them: in float32
        return race.measure(diffusers)

    def diffusers_compiled() -> dict[str, Any]:
        if "diffusers" not in theirs:
            return {"skipped": "diffusers did not run"}
        for block in theirs["diffusers"].transformer_blocks:
            block.compile(backend=s.compiler)
        return race.measure(diffusers)

    def with_comfyui() -> dict[str, Any]:
        if reason := no_comfyui():
            return reason
        try:
            network = comfyui_dit(ours, cpu=not s.cuda)
        except ImportError as missing:
            return {"skipped": f"ComfyUI needs what is not installed: {missing}"}
        # It has time as the noise that is left, and the prediction's sign the other way round.
        return race.measure(lambda: -network(z, sigma, features, mask))

    yield "denoiser: diffusers", with_diffusers
    yield "denoiser: diffusers, compiled", diffusers_compiled
    yield "denoiser: ComfyUI", with_comfyui

    def compiled() -> dict[str, Any]:
        from mochi.dit.compiled import CompiledBlocks

        return race.measure(partial(run, BlockRunner(CompiledBlocks(s.compiler))))

    yield "denoiser: ours, compiled", compiled


def decoders(s: Setting) -> Iterator[Part]:
    ours, z = s.made(Decoder, s.decoder), s.random(1, 12, min(FRAMES, s.latents[2]), *s.latents[3:])

    def run(chunk: int) -> Tensor:
        return torch.cat(list(ours.stream(z, chunk)), dim=2)

    chosen = partial(run, s.chunk(*z.shape))
    race = Race(s, chosen)
    yield "decoder: ours", lambda: race.ours(chosen)
    if s.cuda:
        yield "decoder: ours, 1 latent frame at a time", lambda: race.measure(partial(run, 1))

    def with_diffusers() -> dict[str, Any]:
        if reason := no_diffusers():
            return reason
        from tests.peers.diffusers import diffusers_vae

        encoder = randomised(Encoder(s.encoder, device=s.device), bias=0.1)
        with torch.device(s.device):
            theirs = diffusers_vae(ours, encoder).to(s.dtype)
        return race.measure(lambda: theirs.decode(z, return_dict=False)[0])

    yield "decoder: diffusers", with_diffusers


class Race:
    """Measures contenders for the same output."""

    def __init__(self, s: Setting, ours: Callable[[], Tensor]):
        self._setting = s
        self._right, self._ms = ours(), None

    def measure(self, run: Callable[[], Tensor]) -> dict[str, Any]:
        try:
            found = {**peak(run, self._setting.device), **milliseconds(run, self._setting.device)}
        except torch.OutOfMemoryError as short:
            return {"out of memory": str(short).splitlines()[0]}
        faster = found["ms"] / self._ms if self._ms else None
        return {**found, "ours is faster x": faster, "differs": relative_error(run(), self._right)}

    def ours(self, run: Callable[[], Tensor]) -> dict[str, Any]:
        """What the others are held against; where it was not measured, nothing is said of how much faster it is."""
        found = self.measure(run)
        self._ms = found.get("ms")
        return found | all_kernels_ran()

    def eager(self, run: Callable[[], Tensor]) -> dict[str, Any]:
        with without_kernels():
            return self.measure(run)


def no_diffusers() -> dict[str, str]:
    return {} if find_spec("diffusers") else {"skipped": "diffusers is not installed: see --wheels"}


def no_comfyui() -> dict[str, str]:
    try:
        find_or_fetch_comfyui(python=None)
    except (HostError, FileNotFoundError):
        return {"skipped": "there is no ComfyUI: name its folder in COMFYUI_PATH"}
    return {}
