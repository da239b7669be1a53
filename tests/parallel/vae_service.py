"""What the tests of the VAE ask of a rank."""

from typing import Any

import torch
from torch import Tensor

from mochi.config import DecoderConfig, EncoderConfig
from mochi.parallel.spmd.vae import StripRanks, decode_strips, encode_strip
from mochi.parallel.worker.loop import Context
from mochi.vae import Decoder, Encoder


class StripService:
    """A decoder and an encoder on this rank."""

    def __init__(self, context: Context):
        self.ranks = StripRanks()

    def handle(self, request: tuple[str, dict[str, Any]]) -> Any:
        method, arguments = request
        return getattr(self, method)(**arguments)

    def load(
        self,
        decoder: DecoderConfig,
        encoder: EncoderConfig,
        decoder_weights: dict[str, Tensor],
        encoder_weights: dict[str, Tensor],
        dtype: torch.dtype,
    ) -> None:
        self.decoder, self.encoder = Decoder(decoder, dtype=dtype), Encoder(encoder, dtype=dtype)
        self.decoder.load_state_dict(decoder_weights)
        self.encoder.load_state_dict(encoder_weights)

    def decode(self, z: Tensor, chunk: int = 1) -> list[Tensor]:
        return list(decode_strips(self.decoder, z, self.ranks, chunk))

    def encode(self, video: Tensor) -> Tensor | None:
        return encode_strip(self.encoder, video, self.ranks)
