"""A small AsymmDiT, its twin in the diffusers library, and a LoRA that PEFT made on the twin."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from diffusers import MochiTransformer3DModel
from peft import LoraConfig
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from mochi.config import DiTConfig
from mochi.dit import AsymmDiT
from tests.peers.diffusers import diffusers_dit
from tests.random_weights import randomised

CONFIG = DiTConfig(depth=2, num_heads=4, hidden_x=96, hidden_y=48, mlp_x=256, mlp_y=128, text_width=64, text_length=32)
TARGETS = ["to_q", "to_k", "add_q_proj", "add_v_proj", "to_out.0", "to_add_out", "net.0.proj", "net.2", "linear_1"]
TARGETS += ["norm1.linear", "norm1_context.linear", "norm_out.linear", "proj_out", "caption_proj", "patch_embed.proj"]
RANK = 3


def tiny_dit() -> AsymmDiT:
    """The same weights whenever it is called."""
    return randomised(AsymmDiT(CONFIG), 1).requires_grad_(False)


def predicted(network: torch.nn.Module) -> Tensor:
    """What a network of ours or of diffusers makes of the same noise and prompts."""
    generator = torch.Generator().manual_seed(2)
    z, features = torch.randn(2, 12, 2, 4, 6, generator=generator), torch.randn(2, 32, 64, generator=generator)
    sigma, mask = torch.tensor([0.3, 0.8]), torch.arange(32) < torch.tensor([[32], [7]])
    with torch.inference_mode():
        if isinstance(network, MochiTransformer3DModel):
            return network(z, features, 1000 * (1 - sigma), mask, return_dict=False)[0]
        return network(z, sigma, network.encode_text(features, mask))


@dataclass(frozen=True)
class Trained:
    """A LoRA as diffusers wrote it, and what its model makes with it."""

    path: Path
    out: Tensor

    @property
    def state(self) -> dict[str, Tensor]:
        return load_file(self.path)

    def metadata(self) -> dict[str, str]:
        with safe_open(self.path, "pt") as file:
            return file.metadata()


@pytest.fixture(scope="session")
def train(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Trained]:
    """`train(r=..., lora_alpha=...)` makes a LoRA with those settings of PEFT's LoraConfig."""

    def run(seed: int = 0, **settings: object) -> Trained:
        torch.manual_seed(seed)
        theirs = diffusers_dit(tiny_dit())
        settings = {"r": RANK, "lora_alpha": 5, "target_modules": TARGETS, "init_lora_weights": False} | settings
        theirs.add_adapter(LoraConfig(**settings))
        for name, p in theirs.named_parameters():
            if "lora_" in name:
                torch.nn.init.normal_(p, std=0.15)
        folder = tmp_path_factory.mktemp("lora")
        theirs.save_lora_adapter(folder, weight_name="lora.safetensors")
        return Trained(folder / "lora.safetensors", predicted(theirs.eval()))

    return run


@pytest.fixture(scope="session")
def trained(train: Callable[..., Trained]) -> Trained:
    """A LoRA on layers of every kind, with another rank and alpha here and there."""
    return train(alpha_pattern={"to_q": 2, "ff.net.2": 7}, rank_pattern={"to_q": 2})


@pytest.fixture
def saved(tmp_path: Path) -> Callable[..., Path]:
    """`saved(tensors, key=value)` writes a file with JSON values as its metadata."""

    def save(state: dict[str, Tensor], name: str = "made.safetensors", **metadata: object) -> Path:
        texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in metadata.items()}
        save_file({key: t.contiguous() for key, t in state.items()}, tmp_path / name, metadata=texts or None)
        return tmp_path / name

    return save
