"""A Mochi of toy size with random weights, written into ComfyUI's model folders. Loaded through `pack.module`."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from transformers import T5Config, T5EncoderModel

from ....mochi.config import DecoderConfig, DiTConfig, EncoderConfig
from ....mochi.dit import AsymmDiT
from ....mochi.vae import Decoder, Encoder

DIT = DiTConfig(depth=3, num_heads=4, hidden_x=64, hidden_y=32, mlp_x=256, mlp_y=256, text_width=48)
VAE = {"base": 8, "multipliers": (1, 2, 2, 4), "res_blocks": (1, 1, 1, 1, 1), "groups": 4}
DECODER = DecoderConfig(**VAE)
ENCODER = EncoderConfig(**VAE, attention=(False, False, False, False, True), attention_head_dim=16)
WORDS = ["a", "red", "blue", "circle", "square", "moves", "left", "right", "on", "black"]


@dataclass(frozen=True)
class Small:
    """LazyTensors of the loaders' lists, and the networks that belong to them."""

    t5: str
    dit: str
    vae: str
    decoder: str
    encoder: str
    network: AsymmDiT
    models: Path


def write(base: Path) -> Small:
    """Write the files below `base/models`, the same ones whenever it is called."""
    torch.set_num_threads(1)  # such small networks are fastest on one
    models_folder = base / "models"
    torch.manual_seed(0)
    dit = write_dit(models_folder / "diffusion_models" / "small_dit.safetensors")
    decoder, encoder = randomise(Decoder(DECODER)), randomise(Encoder(ENCODER))
    parts = {f"decoder.{key}": t for key, t in _weights(decoder)} | {
        f"encoder.{key}": t for key, t in _weights(encoder)
    }
    _save(models_folder / "vae" / "small_vae.safetensors", parts, ENCODER)
    _save(models_folder / "vae" / "small_decoder.safetensors", dict(_weights(decoder)), DECODER)
    _save(models_folder / "vae" / "small_encoder.safetensors", dict(_weights(encoder)), ENCODER)
    _write_t5(models_folder / "text_encoders" / "small_t5")
    names = ("small_vae.safetensors", "small_decoder.safetensors", "small_encoder.safetensors")
    return Small("small_t5/", "small_dit.safetensors", *names, dit.eval().requires_grad_(False), models_folder)


def write_dit(path: Path, config: DiTConfig = DIT) -> AsymmDiT:
    """A file of a denoiser, and the denoiser."""
    dit = randomise(AsymmDiT(config))
    _save(path, dict(_weights(dit)), config)
    return dit


def randomise(network: nn.Module) -> nn.Module:
    """Weights large enough for every layer to matter."""
    for name, weight in network.named_parameters():
        noise = torch.randn(weight.shape)
        with torch.no_grad():
            if weight.ndim == 1:
                weight.copy_(noise * 0.1 + (1.0 if "norm" in name and name.endswith("weight") else 0.0))
            else:
                weight.copy_(noise / weight[0].numel() ** 0.5)
    return network


def _weights(network: nn.Module) -> list[tuple[str, torch.Tensor]]:
    return [(name, weight.detach().contiguous()) for name, weight in network.state_dict().items()]


def _save(path: Path, weights: dict[str, torch.Tensor], config: DiTConfig | DecoderConfig) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(weights, path, metadata={"config": json.dumps(asdict(config))})


def _write_t5(folder: Path) -> None:
    vocabulary = {word: index for index, word in enumerate(["<pad>", "</s>", "<unk>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    sizes = {"vocab_size": len(vocabulary), "d_model": DIT.text_width, "d_kv": 8, "d_ff": 64}
    config = T5Config(**sizes, num_layers=2, num_heads=4, feed_forward_proj="gated-gelu")
    T5EncoderModel(config).save_pretrained(folder)


def load(small: Small) -> AsymmDiT:
    """A copy of the network, to change."""
    network = AsymmDiT(DIT)
    network.load_state_dict(small.network.state_dict())
    return network.eval()
