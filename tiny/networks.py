"""The tiny T5 and AsymmDiT as training wants them: how they start, how prompts and dropped prompts reach them."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase, T5Config, T5EncoderModel

from mochi.config import DiTConfig
from mochi.dit import AsymmDiT
from mochi.dit.attention import JointAttention
from mochi.dit.heads import PackedQKV, joint_qkv
from mochi.dit.model import AsymmetricJointBlock, TextContext


def new_t5(vocabulary: int, width: int) -> T5EncoderModel:
    """A two-layer T5 encoder of the v1.1 kind (gated GELU) with fresh weights."""
    config = {
        "vocab_size": vocabulary,
        "d_model": width,
        "d_kv": 32,
        "d_ff": 2 * width,
        "num_layers": 2,
        "num_heads": 4,
        "feed_forward_proj": "gated-gelu",
        "dropout_rate": 0.0,
        "tie_word_embeddings": False,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "decoder_start_token_id": 0,
    }
    return T5EncoderModel(T5Config.from_dict(config))


def new_dit(config: DiTConfig, patches: int = 16) -> AsymmDiT:
    """An AsymmDiT with fresh weights that predicts 0 and trains from the first step.

    Args:
        patches: patches in a latent frame of the training clips; the rotary frequencies suit them.
    """
    dit = AsymmDiT(config)
    for module in dit.modules():
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
    for block in dit.blocks:
        assert isinstance(block, AsymmetricJointBlock)
        nn.init.zeros_(block.mod_x.weight)
        nn.init.zeros_(block.mod_y.weight)
        _open_gates(block.mod_x.bias, config.hidden_x)
        _open_gates(block.mod_y.bias, config.hidden_y)
        block.attn.joint = MaskedAttention()
    # A token learns where it is only from its rotated queries, with which it reads the text. The text's keys are not
    # rotated. In pure noise the average query is its constant part. Without one, the model learns motion very late.
    nn.init.normal_(dit.x_embedder.proj.bias, std=dit.x_embedder.proj.weight[0].norm().item())
    for layer in (dit.final_layer.mod, dit.final_layer.linear):
        nn.init.zeros_(layer.weight)
    dit.pos_frequencies.data.copy_(_rotary_frequencies(config, patches))
    # They are multiplied by large positions and would need a learning rate of their own. They serve well untrained.
    dit.pos_frequencies.requires_grad_(False)
    return dit


def _open_gates(bias: Tensor, width: int, value: float = 0.3) -> None:
    """Set the gates of a modulation to `value`.

    Its chunks are (attention scale, attention gate, MLP scale, MLP gate). The text of the last block has a scale alone.
    """
    with torch.no_grad():
        for chunk in bias.split(width)[1::2]:
            chunk.fill_(value)


def _rotary_frequencies(config: DiTConfig, patches: int) -> Tensor:
    """Rotary frequencies (3, heads, d/2). Each channel pair rotates along one axis, by 0.25 to 2 radians a patch."""
    scale = math.sqrt(config.rope_area / patches)  # distance of neighbouring patches, rows and columns
    pairs = config.head_dim // 2
    frequencies = torch.zeros(3, config.num_heads, pairs)
    for axis, unit in enumerate((1.0, scale, scale)):
        own = torch.arange(axis, pairs, 3)
        frequencies[axis, :, own] = torch.logspace(math.log10(0.25), math.log10(2.0), len(own)) / unit
    return frequencies


def masked_joint_attention(
    q: Tensor, k: Tensor, v: Tensor, visual: int, text_lengths: Sequence[int] | Tensor
) -> tuple[Tensor, Tensor]:
    """The model's joint attention for a batch of different prompts, in one call with a mask.

    It is spelt out in matrix products. With gradients, bfloat16 and a mask that is several times faster on a CPU than
    the fused kernel.
    """
    length = q.shape[1] - visual
    lengths = torch.as_tensor(text_lengths, device=q.device)[:, None]
    real = torch.arange(length, device=q.device)[None] < lengths
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))
    bias = torch.zeros_like(real, dtype=q.dtype).masked_fill(~real, -1e4)
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2) + F.pad(bias, (visual, 0))[:, None, None, :]
    out = (scores.softmax(-1).to(v.dtype) @ v).transpose(1, 2)
    return out[:, :visual], out[:, visual:] * real[:, :, None, None]


class MaskedAttention(JointAttention):
    """The attention of a model in training."""

    def __call__(self, x: PackedQKV, y: PackedQKV, text_lengths: Sequence[int] | Tensor) -> tuple[Tensor, Tensor]:
        return masked_joint_attention(*joint_qkv(x, y), x.qkv.shape[1], text_lengths)


def tokenize(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], length: int | None = None
) -> tuple[Tensor, Tensor]:
    """Token ids and mask (B, L), padded to the longest prompt or to `length`, where longer ones are cut.

    An empty prompt has ids all 0 and mask all False.
    """
    padding = "max_length" if length else True
    batch = tokenizer(list(prompts), truncation=True, return_tensors="pt", padding=padding, max_length=length or 256)
    real = torch.tensor([bool(prompt.strip()) for prompt in prompts])[:, None]
    return batch["input_ids"] * real, batch["attention_mask"].bool() & real


class PromptedDiT(nn.Module):
    """The T5 encoder and the AsymmDiT that reads it, trained as one."""

    def __init__(self, config: DiTConfig, vocabulary: int):
        super().__init__()
        self.t5 = new_t5(vocabulary, config.text_width)
        self.dit = new_dit(config)

    def forward(self, z: Tensor, sigma: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """z (B, 12, T, h, w) at noise level sigma (B,) or (B, T), token ids and mask (B, L) -> `z_0 - eps`."""
        return self.flow(z, sigma, self.features(ids, mask), mask)

    def features(self, ids: Tensor, mask: Tensor) -> Tensor:
        """T5 features (B, L, D)."""
        return self.t5(input_ids=ids, attention_mask=mask.long()).last_hidden_state

    def flow(self, z: Tensor, sigma: Tensor, features: Tensor, mask: Tensor) -> Tensor:
        """The denoiser in constant shapes, padding and all, so that it can be compiled."""
        lengths = mask.sum(1)  # a tensor: numbers would be compiled into the code
        caption, tokens = self.dit.t5_y_embedder(features, mask), self.dit.t5_yproj(features)
        # MaskedAttention takes a tensor too.
        text = TextContext(caption, tokens, lengths)  # pyright: ignore[reportArgumentType]
        return self.dit(z, sigma, text)

    def context(self, ids: Tensor, mask: Tensor) -> TextContext:
        """What sampling computes once for its prompts."""
        return self.dit.encode_text(self.features(ids, mask), mask)
