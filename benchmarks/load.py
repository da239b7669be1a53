"""How much memory a full-size AsymmDiT takes to load and to run once, in each format: `python -m benchmarks.load`.

Writes random weights of the published sizes into a folder (20 GB for bf16), loads them, makes one forward pass at a
small latent on the CPU, and prints the peak of anonymous memory: of what a process has allocated, without the pages of
the file that are mapped, which the system takes back whenever it needs room. Linux only.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.report import add_option, report
from benchmarks.resident import watched
from mochi.checkpoint import load_dit
from mochi.config import DiTConfig
from mochi.dit import AsymmDiT

SEED_VALUES = 1 << 24


def parameters() -> dict[str, Tensor]:
    """Those of the published network, on the meta device."""
    return dict(AsymmDiT(DiTConfig(), dtype=torch.bfloat16, device="meta").named_parameters())


def is_quantized(name: str, p: Tensor) -> bool:
    return p.ndim == 2 and p.numel() > 1 << 20


def values_of(p: Tensor, kind: str) -> Iterator[np.ndarray]:
    """Random values of a weight in pieces: about unit variance behind a Linear, which keeps activations in range."""
    spread = p[0].numel() ** -0.5 if p.ndim > 1 else 0.1
    noise = torch.randn(min(p.numel(), SEED_VALUES)) * spread
    left = p.numel()
    while left:
        yield noise[:left].to(p.dtype if kind == "bf16" else torch.float8_e4m3fn).view(torch.uint8).numpy()
        left -= min(left, len(noise))


def write_safetensors(path: Path, kind: str) -> None:
    """bf16, or the large weights as a plain cast to fp8. Written piece by piece: the library wants all at once."""
    names = {torch.bfloat16: "BF16", torch.float32: "F32", torch.float8_e4m3fn: "F8_E4M3"}
    header, end = {}, 0
    dtypes = {}
    for name, p in parameters().items():
        dtypes[name] = torch.float8_e4m3fn if kind == "fp8" and is_quantized(name, p) else p.dtype
        size = p.numel() * dtypes[name].itemsize
        header[name] = {"dtype": names[dtypes[name]], "shape": list(p.shape), "data_offsets": [end, end + size]}
        end += size
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    with path.open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        for name, p in parameters().items():
            for piece in values_of(p, "fp8" if dtypes[name] == torch.float8_e4m3fn else "bf16"):
                file.write(piece.tobytes())


def write_gguf(path: Path) -> None:
    """The large weights as blocks of Q4_0, each with the scale that such blocks of random weights have."""
    import gguf

    q4, types = gguf.GGMLQuantizationType.Q4_0, gguf.GGMLQuantizationType
    writer = gguf.GGUFWriter(path, "mochi")
    plain = {torch.bfloat16: types.BF16, torch.float32: types.F32}
    for name, p in parameters().items():
        kind = q4 if is_quantized(name, p) else plain[p.dtype]
        size = p.numel() // 32 * 18 if kind == q4 else p.numel() * p.element_size()
        shape = gguf.quant_shape_to_byte_shape(tuple(p.shape), kind) if kind != types.F32 else tuple(p.shape)
        writer.add_tensor_info(name, shape, np.dtype(np.uint8 if kind != types.F32 else np.float32), size, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for name, p in parameters().items():
        if not is_quantized(name, p):
            writer.write_tensor_data(np.concatenate(list(values_of(p, "bf16"))))
            continue
        blocks = np.random.default_rng(0).integers(0, 256, (p.numel() // 32, 18), dtype=np.uint8)
        scale = np.array([p.shape[1] ** -0.5 / 4], dtype=np.float16).view(np.uint8)
        blocks[:, :2] = scale
        writer.write_tensor_data(blocks)
    writer.close()


WRITERS = {
    "bf16": ("mochi_random_bf16.safetensors", lambda path: write_safetensors(path, "bf16")),
    "fp8": ("mochi_random_fp8_e4m3fn.safetensors", lambda path: write_safetensors(path, "fp8")),
    "q4_0": ("mochi_random_q4_0.gguf", write_gguf),
}


@torch.inference_mode()
def measure(path: Path) -> dict[str, float]:
    """Load a file and make one forward pass of 16 visual and 16 text tokens in bfloat16."""
    with watched() as peak:
        started = time.monotonic()
        model = load_dit(path, compute=torch.bfloat16)
        loaded = time.monotonic()
        generator = torch.Generator().manual_seed(0)
        features = torch.randn(1, 256, model.config.text_width, generator=generator).bfloat16()
        text = model.encode_text(features, torch.arange(256)[None] < 16)
        z = torch.randn(1, 12, 1, 8, 8, generator=generator).bfloat16()
        out = model(z, torch.tensor([0.7]), text)
        ended = time.monotonic()
    if not out.isfinite().all():
        raise SystemExit(f"{path}: the pass gave values that are not finite")
    return {
        "file GB": path.stat().st_size / 1e9,
        "load s": loaded - started,
        "pass s": ended - loaded,
        "anonymous GiB": peak[0] / 2**30,
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="for the files, which are kept, and used again")
    parser.add_argument("--kinds", nargs="+", choices=WRITERS, default=list(WRITERS))
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)  # what a process for one measurement gets
    add_option(parser)
    options = parser.parse_args()
    if options.file:
        print(json.dumps(measure(options.file)))
        return
    options.folder.mkdir(parents=True, exist_ok=True)
    figures = {}
    for kind in options.kinds:
        name, write = WRITERS[kind]
        path = options.folder / name
        if not path.exists():
            part = path.with_suffix(".part")
            write(part)
            part.rename(path)
        # A process for each: what one has allocated, the next is not to find.
        command = [sys.executable, "-m", "benchmarks.load", str(options.folder), "--file", str(path)]
        figures[kind] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    report("load", figures, options.json)


if __name__ == "__main__":
    main()
