"""The convolution for a CPU, alone and before a host's."""

import pytest
import torch
from torch import nn

from mochi.vae.cpu import CpuConv3d
from mochi.vae.stream import FEW


class HostConv3d(nn.Conv3d):
    """As those of newer ComfyUI, which hand on what a network asked for."""

    def forward(self, input):
        return self._conv_forward(input, self.weight, self.bias, autopad=None)

    def _conv_forward(self, input, weight, bias, autopad=None):
        assert autopad is None
        return super()._conv_forward(input, weight, bias)


class Both(CpuConv3d, HostConv3d):
    pass


@pytest.mark.parametrize("kind", [CpuConv3d, Both])
@pytest.mark.parametrize(("dtype", "side"), [(torch.float32, 4), (torch.float32, 64), (torch.bfloat16, 4)])
@torch.inference_mode()
def test_is_torch_s_own(kind, dtype, side):
    torch.manual_seed(0)
    conv, own = (layer(8, 8, (2, 3, 3), (2, 1, 1), dtype=dtype) for layer in (kind, nn.Conv3d))
    conv.load_state_dict(own.state_dict())
    x = torch.randn(2, 8, 6, side, side, dtype=dtype)
    assert (x.numel() <= FEW) == (side == 4)
    torch.testing.assert_close(conv(x), own(x))
