"""The work that is measured: networks of chosen sizes with random weights, written as files, and inputs for them."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from safetensors.torch import save_file
from torch import nn

from mochi.config import DecoderConfig, DiTConfig
from mochi.dit import AsymmDiT
from mochi.vae import Decoder


@dataclass(frozen=True)
class Sizes:
    """A denoiser and the latents (T, h, w) of one pass; a decoder and the latents of one video."""

    dit: DiTConfig
    latents: tuple[int, int, int]
    prompt_tokens: int
    decoder: DecoderConfig
    video: tuple[int, int, int]
    dtype: torch.dtype


# For a CPU with two cores: 6 blocks of 768, 3,200 tokens; 43 frames of 192 x 128.
SMALL = Sizes(
    dit=DiTConfig(depth=6, num_heads=12, hidden_x=768, hidden_y=384, mlp_x=2048, mlp_y=1024, text_width=256),
    latents=(8, 40, 40),
    prompt_tokens=60,
    decoder=DecoderConfig(base=32),
    video=(8, 16, 24),
    dtype=torch.float32,
)
# For GPUs: 8 of the published model's 48 blocks, at the published default size.
WIDE = Sizes(
    dit=DiTConfig(depth=8),
    latents=(28, 60, 106),
    prompt_tokens=60,
    decoder=DecoderConfig(),
    video=(28, 60, 106),
    dtype=torch.bfloat16,
)


@contextmanager
def weight_files(sizes: Sizes) -> Iterator[tuple[Path, Path]]:
    """Files of an AsymmDiT and a decoder with random weights; they are gone behind the block."""
    with TemporaryDirectory(prefix="mochi-benchmark-") as folder:
        files = Path(folder, "dit.safetensors"), Path(folder, "decoder.safetensors")
        for file, network, config in zip(files, (AsymmDiT, Decoder), (sizes.dit, sizes.decoder), strict=True):
            _write(file, network(config, dtype=sizes.dtype, device="meta"), config)
        yield files


def _write(file: Path, network: nn.Module, config: DiTConfig | DecoderConfig) -> None:
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for name, p in network.named_parameters():
        values = torch.randn(p.shape, generator=generator)
        scale = p[0].numel() ** -0.5 if p.ndim > 1 else 0.1
        weights[name] = (values * scale + (p.ndim == 1 and name.endswith("weight"))).to(p.dtype)
    save_file(weights, file, metadata={"config": json.dumps(asdict(config))})
