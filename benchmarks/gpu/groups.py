"""Real ranks with the tiny model: one over NCCL; two that share the GPU, over gloo, since NCCL takes a GPU once.

Each way to keep weights must give what one device gives, with a LoRA and without it again. Then ranks that are killed,
raise, hang and run out of memory: the error must say so, nothing may be left, and the next request must work.
"""

import time
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mochi.checkpoint import load_decoder, load_dit
from mochi.config import TINY_WEIGHTS
from mochi.errors import GroupError
from mochi.lora import LoraPatch
from mochi.parallel.owner.client import RemoteDiT, RemoteText, RemoteVAE, finish
from mochi.parallel.owner.manager import GroupManager
from mochi.parallel.protocol import Event, FramesDecoded, GetStatus, LoadDiT, LoadVAE
from tests.exact import relative_error

from .correctness import ROUNDING, inputs
from .measuring import judged
from .setting import Part, Setting

WAYS = ("replicated", "sharded", "offloaded")
TF32 = 2.0**-10
"""cuDNN rounds what it convolves in float32 to 10 bits behind the first; a value between two falls to either side."""
LENGTHS = (9, 0)
"""Text tokens with the prompt and without."""
SIGMAS, CFG = (1.0, 0.8, 0.4, 0.0), (4.0, 4.0, 1.0)
FAULTY = (str(Path(__file__).parents[2] / "tests" / "parallel" / "faulty_service.py"), "Faulty")
TIMEOUT = 60.0
SHORT = 20.0  # seconds after which a silent rank has failed; loading must fit in too

# What the error of each fault must say of rank 1.
SAYS = {
    "kill": "was killed by SIGKILL",
    "raise": "a planned failure",
    "memory": "out of memory",
    "stop": "gave no sign of life",
}


def section(s: Setting) -> Iterator[Part]:
    with closing(manager(s, 1, TIMEOUT)) as one:
        yield "1 rank", partial(group, s, one, "replicated")
    with closing(manager(s, 2, TIMEOUT)) as two:
        for weights in WAYS:
            yield f"2 ranks, {weights}", partial(group, s, two, weights)
    # The ranks that one drill leaves working have the next one's fault.
    with closing(manager(s, 2, SHORT, service=FAULTY)) as ranks:
        for kind in SAYS:
            yield f"drill: {kind}", partial(drill, ranks, kind)


def group(s: Setting, group: GroupManager, weights: str) -> dict[str, Any]:
    """Passes and frames beside one device's, in float32. LoRA: how far it changes a pass, beside its own weights merged
    by one device, and whether the pass is the same as before once it is gone."""
    file, lora = TINY_WEIGHTS / "dit.safetensors", a_lora()
    z, features, mask = inputs(LENGTHS)
    started = time.monotonic()
    group.use()
    figures: dict[str, Any] = {"start s": time.monotonic() - started}
    dit = RemoteDiT(group, LoadDiT(file, torch.float32, torch.float32, weights))
    text = dit.text(features, mask)

    def forward() -> Tensor:
        return finish(dit.forward(z[:1], torch.tensor([0.7]), [(text, 0)]))

    started = time.monotonic()
    found = forward()
    figures["loading and first pass s"] = time.monotonic() - started
    figures["pass"] = judged(relative_error(found, alone(s)), ROUNDING)
    finish(dit.patch("lora", lora))
    figures["pass with LoRA"] = judged(relative_error(forward(), alone(s, lora)), ROUNDING)
    finish(dit.patch(None, {}))
    figures["pass after LoRA"] = judged(relative_error(forward(), found), 0.0)
    started = time.monotonic()
    run(dit, text)
    figures["3 steps s"] = time.monotonic() - started
    figures["frames"] = judged(relative_error(*decoded(s, group)), TF32 if s.cuda else ROUNDING)
    figures["memory GB"] = [status.memory / 1e9 for status in group.use().run(GetStatus())]
    return figures


def manager(s: Setting, ranks: int, timeout: float, **arguments: Any) -> GroupManager:
    device = "cuda:0" if s.cuda else "cpu"
    return GroupManager([device] * ranks, timeout, threads=1, **arguments)


def run(dit: RemoteDiT, text: RemoteText) -> Tensor:
    z = inputs(LENGTHS)[0][:1]
    return finish(dit.sample(z, SIGMAS, CFG, [(text, 0)], [(text, 1)]))


def a_lora() -> dict[str, list[LoraPatch]]:
    generator = torch.Generator().manual_seed(7)
    up, down = (torch.randn(shape, generator=generator) for shape in ((576, 2), (2, 192)))
    return {"blocks.1.attn.qkv_x.weight": [LoraPatch(up, down, 0.1)]}


def alone(s: Setting, lora: dict[str, list[LoraPatch]] | None = None) -> Tensor:
    """The pass on the device itself."""
    model = load_dit(TINY_WEIGHTS / "dit.safetensors", torch.float32, s.device)
    for name, (patch,) in (lora or {}).items():
        weight = model.get_parameter(name).data
        weight += patch.scale * (patch.up @ patch.down).to(weight)
    z, features, mask = (t[:1].to(s.device) for t in inputs(LENGTHS))
    return model(z, torch.full((1,), 0.7, device=s.device), model.encode_text(features, mask))


def decoded(s: Setting, group: GroupManager) -> tuple[Tensor, Tensor]:
    """Frames of the group, and of the device itself."""
    file, z = TINY_WEIGHTS / "decoder.safetensors", inputs(LENGTHS)[0][:1]
    frames: list[Tensor] = []

    def keep(event: Event) -> None:
        if isinstance(event.payload, FramesDecoded):
            frames.append(event.payload.frames)

    finish(RemoteVAE(group, LoadVAE(file, None, torch.float32)).decode(z), keep)
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=True):  # as in the ranks
        right = torch.cat(list(load_decoder(file, torch.float32, s.device).stream(z.to(s.device))), dim=2)
    return torch.cat(frames, dim=2), right


def drill(group: GroupManager, kind: str) -> dict[str, Any]:
    """A fault of rank 1 in the middle of a run."""
    dit = RemoteDiT(group, LoadDiT(TINY_WEIGHTS / "dit.safetensors", torch.float32, torch.float32))
    _, features, mask = inputs(LENGTHS)
    text = dit.text(features, mask)
    before, pids = run(dit, text), group.use().pids
    group.use().run(("fault", {"rank": 1, "request": "Sample", "kind": kind}), "planning a fault")
    started, says = time.monotonic(), "nothing: the run ended as if all were well"
    try:
        run(dit, text)
    except GroupError as failure:
        says = str(failure).splitlines()[0]
    took = time.monotonic() - started
    left = [pid for pid in pids if Path(f"/proc/{pid}").exists()]
    started = time.monotonic()
    again = run(dit, text)
    return {
        "says": says,
        "after s": took,
        "left": len(left),
        "next run after s": time.monotonic() - started,
        "ok": "Rank 1 " in says and SAYS[kind] in says and not left and again.equal(before),
    }
