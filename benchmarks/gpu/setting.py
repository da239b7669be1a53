"""What the sections measure on and with: a device, and the sizes of the published model or of a toy."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from mochi.config import PREVIEW, DecoderConfig, DiTConfig, EncoderConfig
from mochi.device_memory import memory_free
from mochi.dit import PLAIN, AsymmDiT, BlockRunner, TextContext
from mochi.dit.attention import use_attention
from mochi.dit.backends import SDPA, attention_named
from mochi.geometry import latent_shape
from mochi.memory import tokens_of
from mochi.vae import Decoder, Encoder
from mochi.vae.chunks import chunk_for
from mochi.vae.layers import in_order
from tests.random_weights import randomised

Network = TypeVar("Network", bound=nn.Module)

Part = tuple[str, Callable[[], Any]]
"""A name, and what measures it: figures, as JSON can hold them. A part that raises does not end its section."""

# In the proportions that diffusers and ComfyUI insist on, with rows that each quantised format divides.
TOY = DiTConfig(depth=2, num_heads=12, hidden_x=768, hidden_y=768, mlp_x=2048, mlp_y=2048, text_width=256)
TOY_VAE = {"base": 32, "res_blocks": (1, 1, 1, 1, 1)}


@dataclass(frozen=True)
class Setting:
    """device: what is measured. small: toy sizes, to test the kit itself."""

    device: torch.device
    small: bool = False

    @property
    def cuda(self) -> bool:
        return self.device.type == "cuda"

    @property
    def dtype(self) -> torch.dtype:
        """What networks compute in. A CPU may be slow in bfloat16."""
        return torch.bfloat16 if self.cuda else torch.float32

    @property
    def compiler(self) -> str:
        """Of torch.compile. In C++, for a CPU, it takes minutes, and tells nothing of a GPU."""
        return "inductor" if self.cuda else "eager"

    @property
    def dit(self) -> DiTConfig:
        return TOY if self.small else PREVIEW.dit

    @property
    def decoder(self) -> DecoderConfig:
        return DecoderConfig(**TOY_VAE) if self.small else PREVIEW.decoder

    @property
    def encoder(self) -> EncoderConfig:
        return EncoderConfig(**TOY_VAE) if self.small else PREVIEW.encoder

    @property
    def latents(self) -> tuple[int, ...]:
        """(1, 12, T, h, w): of 163 frames of 848 x 480, or of 7 frames of 64 x 64."""
        return (1, 12, 2, 8, 8) if self.small else latent_shape(848, 480, 163)

    @property
    def tokens(self) -> int:
        """Visual tokens of a pass."""
        return tokens_of(self.dit, self.latents)[1]

    @property
    def text(self) -> int:
        """Text tokens of the longest prompt."""
        return self.dit.text_length

    def few_blocks(self) -> DiTConfig:
        """A denoiser with 4 blocks, which tell as much of a block's speed as 48."""
        return replace(self.dit, depth=min(4, self.dit.depth))

    def chunk(self, *latents: int) -> int:
        """Latent frames of (B, 12, T, h, w) that mochi decodes at a time here, with the memory that is free now."""
        return chunk_for(self.decoder, latents, memory_free(self.device), self.dtype) if self.cuda else 1

    def random(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        return torch.randn(shape, device=self.device, dtype=dtype or self.dtype)

    def made(self, kind: Callable[..., Network], config: Any) -> Network:
        """A network of that class and those sizes, with random weights, made on the device; in the memory formats in
        which files are loaded."""
        network = kind(config, dtype=self.dtype, device="meta").to_empty(device=self.device)
        network = in_order(network, self.device) if isinstance(network, (Decoder, Encoder)) else network
        return randomised(network, bias=0.1)


@dataclass
class Forward:
    """A forward pass over the setting's latents, with the attention that mochi chooses: calling it runs it.

    levels: each latent frame has a noise level of its own.
    """

    setting: Setting
    model: AsymmDiT
    text: int | None = None  # tokens of the prompt; None: as many as there can be
    runner: BlockRunner = PLAIN
    levels: bool = False

    def __post_init__(self) -> None:
        s, config = self.setting, self.model.config
        use_attention(self.model.blocks, attention_named(SDPA, s.device, s.dtype, config.head_dim))
        length = s.text if self.text is None else self.text
        self.z = s.random(*s.latents)
        levels = torch.linspace(0.0, 0.9, s.latents[2], device=s.device)[None]
        self.sigma = levels if self.levels else torch.full((1,), 0.7, device=s.device)
        self.context = TextContext(s.random(1, config.hidden_x), s.random(1, length, config.hidden_y), (length,))
        self.rotary = self.model.rotary(*s.latents[2:])

    def __call__(self) -> Tensor:
        return self.model(self.z, self.sigma, self.context, self.rotary, self.runner)
