"""AsymmDiT once more, in plain torch from the published description: one sample, one token, one vector at a time.

Every token has a noise level of its own here, that of its latent frame. T, H, W latent frames, rows, columns; N visual
tokens; L text tokens.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from mochi.dit import AsymmDiT


def plain_dit(model: AsymmDiT, z: Tensor, sigma: Tensor, features: Tensor, mask: Tensor, skip: set[int] = frozenset()):
    """`z_0 - eps` (B, 12, T, H, W) by the parameters of a model in float32.

    Args:
        z: (B, 12, T, H, W).
        sigma: (B, T).
        features, mask: of the prompts, (B, L, text width) and (B, L).
        skip: numbers of the blocks that both streams go by.
    """
    samples = zip(z, sigma, features, mask, strict=True)
    return torch.stack([_Plain(model, z.shape[2:]).sample(*one, skip) for one in samples])


class _Plain:
    def __init__(self, model: AsymmDiT, size: torch.Size):
        self.config, self.w = model.config, dict(model.named_parameters())
        self.frames, self.rows, self.columns = size[0], size[1] // 2, size[2] // 2

    def linear(self, name: str, x: Tensor) -> Tensor:
        bias = self.w.get(f"{name}.bias")
        return x @ self.w[f"{name}.weight"].flatten(1).T + (0 if bias is None else bias)

    def sample(self, z: Tensor, sigma: Tensor, features: Tensor, mask: Tensor, skip: set[int]) -> Tensor:
        real = features[mask]
        y = self.linear("t5_yproj", real)
        c = self.time(sigma) + self.caption(real)
        text_c, token_c = F.silu(c.mean(0)), F.silu(c).repeat_interleave(self.rows * self.columns, 0)

        patches = z.unfold(2, 2, 2).unfold(3, 2, 2).permute(1, 2, 3, 0, 4, 5)  # T, rows, columns, channel, 2, 2
        x = self.linear("x_embedder.proj", patches.flatten(3).flatten(0, 2))
        for i in range(self.config.depth):
            if i not in skip:
                x, y = self.block(f"blocks.{i}.", x, y, token_c, text_c)
        shift, scale = self.linear("final_layer.mod", token_c).chunk(2, -1)
        x = self.linear("final_layer.linear", F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift)
        x = x.unflatten(0, (self.frames, self.rows, self.columns)).unflatten(-1, (2, 2, -1))
        return x.permute(5, 0, 1, 3, 2, 4).reshape(z.shape)

    def time(self, sigma: Tensor) -> Tensor:
        frequencies = torch.exp(-torch.log(torch.tensor(10000.0)) * torch.arange(128) / 128)
        angle = 1000 * (1 - sigma)[:, None] * frequencies
        hidden = F.silu(self.linear("t_embedder.mlp.0", torch.cat((angle.cos(), angle.sin()), -1)))
        return self.linear("t_embedder.mlp.2", hidden)

    def caption(self, real: Tensor) -> Tensor:
        mean = real.mean(0, keepdim=True) if len(real) else real.new_zeros(1, real.shape[-1])
        name, heads = "t5_y_embedder", self.config.caption_heads
        k, v = self.linear(f"{name}.to_kv", torch.cat((mean, real))).unflatten(-1, (2, heads, -1)).unbind(1)
        q = self.linear(f"{name}.to_q", mean).unflatten(-1, (heads, -1))
        return self.linear(f"{name}.to_out", _attend(q, k, v))

    def block(self, name: str, x: Tensor, y: Tensor, token_c: Tensor, text_c: Tensor) -> tuple[Tensor, Tensor]:
        last = f"{name}mlp_y.w1.weight" not in self.w
        x_scale, x_gate, x_mlp_scale, x_mlp_gate = self.linear(f"{name}mod_x", token_c).chunk(4, -1)
        y_scale, *y_others = self.linear(f"{name}mod_y", text_c).chunk(1 if last else 4, -1)
        visual = self.qkv(name, "x", _rms_norm(x) * (1 + x_scale))
        text = self.qkv(name, "y", _rms_norm(y) * (1 + y_scale))
        out = _attend(*(torch.cat(pair) for pair in zip(visual, text, strict=True)))

        x = x + x_gate.tanh() * _rms_norm(self.linear(f"{name}attn.proj_x", out[: len(x)]))
        x = x + x_mlp_gate.tanh() * _rms_norm(self.mlp(f"{name}mlp_x", _rms_norm(x) * (1 + x_mlp_scale)))
        if not last:
            y_gate, y_mlp_scale, y_mlp_gate = y_others
            y = y + y_gate.tanh() * _rms_norm(self.linear(f"{name}attn.proj_y", out[len(x) :]))
            y = y + y_mlp_gate.tanh() * _rms_norm(self.mlp(f"{name}mlp_y", _rms_norm(y) * (1 + y_mlp_scale)))
        return x, y

    def mlp(self, name: str, x: Tensor) -> Tensor:
        a, b = self.linear(f"{name}.w1", x).chunk(2, -1)
        return self.linear(f"{name}.w2", F.silu(a) * b)

    def qkv(self, block: str, stream: str, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        name = f"{block}attn."
        q, k, v = self.linear(f"{name}qkv_{stream}", x).unflatten(-1, (3, self.config.num_heads, -1)).unbind(1)
        q, k = (
            _rms_norm(t, 1e-5) * self.w[f"{name}{letter}_norm_{stream}.weight"] for t, letter in ((q, "q"), (k, "k"))
        )
        return (self.turn(q), self.turn(k), v) if stream == "x" else (q, k, v)

    def turn(self, t: Tensor) -> Tensor:
        """Rotary positions of visual queries or keys (N, h, d)."""
        scale = (self.config.rope_area / (self.rows * self.columns)) ** 0.5
        grid = torch.cartesian_prod(*(torch.arange(float(n)) for n in (self.frames, self.rows, self.columns)))
        centre = torch.tensor([0.0, 0.5 - self.rows / 2, 0.5 - self.columns / 2])
        position = (grid + centre) * torch.tensor([1.0, scale, scale])
        angle = (position[:, :, None, None] * self.w["pos_frequencies"]).sum(1)
        a, b = t[..., ::2], t[..., 1::2]
        turned = a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()
        return torch.stack(turned, -1).flatten(-2)


def _rms_norm(x: Tensor, eps: float = 1e-6) -> Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)


def _attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """q, k, v (tokens, h, d) -> (tokens, h d)."""
    scores = torch.einsum("qhd,khd->hqk", q, k) * q.shape[-1] ** -0.5
    return torch.einsum("hqk,khd->qhd", scores.softmax(-1), v).flatten(1)
