"""The VAE socket: ComfyUI's own VAE object around AsymmVAE, which works in its decode, encode and tiled nodes."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import comfy.model_management as mm
import comfy.ops
import comfy.sd
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor, nn

from ....mochi.checkpoint import Checkpoint, load_decoder, load_encoder
from ....mochi.errors import MochiError
from ....mochi.frames import to_bytes
from ....mochi.geometry import SPACE, TIME, frame_count
from ....mochi.memory import strip_values
from ....mochi.transfer import Outgoing
from ....mochi.vae import Decoder, Encoder
from ....mochi.vae.chunks import chunk_for
from ....mochi.vae.cpu import CpuConv3d
from ....mochi.vae.encoder import kept_values
from ....mochi.vae.layers import in_order
from ..checks import CHANNELS, check_latent
from ..hosts import core_patcher, remember_loader, with_parameters
from ..progress import progress, show_text
from .dtypes import DTYPES, chosen_dtype, free_memory

# Values alive at the peak for each pixel of a frame, for each channel of the layers at full resolution.
ENCODE_VALUES = 9

VIDEO = 3
"""Axes of the latents of a video, beside batch and channels: time, rows and columns."""


class Operations(comfy.ops.disable_weight_init):
    """The host's layers, with the convolution that is fast on a CPU."""

    class Conv3d(CpuConv3d, comfy.ops.disable_weight_init.Conv3d):
        """Casts and patches weights as the host's does."""


class AsymmVAE(nn.Module):
    """Decoder and encoder under the names of ComfyUI's VAE files: `decoder.` and `encoder.`. Either can be missing."""

    def __init__(self, decoder: Decoder | None, encoder: Encoder | None):
        super().__init__()
        self.decoder, self.encoder = decoder, encoder

    def decode(self, z: Tensor, chunk: int = 0) -> Tensor:
        """VAE latents (B, 12, T, h, w) -> frames (B, 3, F, H, W), about -1 to 1. chunk: see `decode_into`."""
        b, _, t, h, w = z.shape
        video = z.new_empty(b, 3, frame_count(t), h * SPACE, w * SPACE)
        start = 0

        def take(frames: Tensor) -> None:
            nonlocal start
            video[:, :, start : start + frames.shape[2]] = frames
            start += frames.shape[2]

        self.decode_into(z, take, chunk)
        return video

    def decode_into(self, z: Tensor, take: Callable[[Tensor], None], chunk: int = 0) -> None:
        """Give the frames of VAE latents (B, 12, T, h, w) to `take`, (B, 3, some, H, W), as they are ready.

        chunk: latent frames at a time, or as many as free memory holds; 0 for what it suggests.
        """
        report = progress()
        chunk, total, done = self._chunk(z, chunk), frame_count(z.shape[2]), 0
        report(0, total)
        for frames in self.need_decoder().stream(z, chunk):
            take(frames)
            done += frames.shape[2]
            show_text(f"decoding: frame {done} of {total}")
            report(done, total)

    def _chunk(self, z: Tensor, wanted: int = 0) -> int:
        """One latent frame fills a CPU; a GPU takes several, if they fit."""
        if z.device.type == "cpu":
            return wanted or 1
        return chunk_for(self.need_decoder().config, z.shape, free_memory(z.device), z.dtype, wanted)

    def encode(self, video: Tensor) -> Tensor:
        """Frames (B, 3, F, H, W) in -1 to 1 -> mean latents (B, 12, T, h, w)."""
        return self.need_encoder().in_pieces(video, report=progress()).mean

    def need_decoder(self) -> Decoder:
        """The decoder. Raises MochiError where there is none."""
        if self.decoder is None:
            raise MochiError("This VAE has no decoder. Choose a file with one, such as decoder.safetensors, as `file`.")
        return self.decoder

    def need_encoder(self) -> Encoder:
        """The encoder. Raises MochiError where there is none."""
        if self.encoder is None:
            raise MochiError(
                "This VAE can only decode: its file has no encoder. Choose an encoder file (encoder.safetensors of "
                "the published weights, or a file that holds both) in Load AsymmVAE (Mochi)."
            )
        return self.encoder


class MochiVAE(comfy.sd.VAE):
    """A VAE made of our networks; sizes and memory estimates tell the host how to tile and what to unload.

    Args:
        patcher: of an AsymmVAE.
        dtype: that it computes in.
        ranks: how many devices share the work.
    """

    def __init__(self, patcher: ModelPatcher, dtype: torch.dtype, ranks: int = 1):
        with _without_warning("No VAE weights detected"):
            super().__init__(sd={})  # sets the host's defaults and stops, since there is nothing to load
        self.first_stage_model: AsymmVAE = patcher.model.eval()
        self.latent_channels, self.latent_dim = CHANNELS, VIDEO
        self.upscale_ratio = (lambda t: max(0, t * TIME - TIME + 1), SPACE, SPACE)
        self.upscale_index_formula = (TIME, SPACE, SPACE)
        self.downscale_ratio = (lambda f: max(0, (f + TIME - 1) // TIME), SPACE, SPACE)
        self.downscale_index_formula = (TIME, SPACE, SPACE)
        del self.memory_used_decode, self.memory_used_encode  # ours are methods
        self.device, self.vae_dtype, self.output_device = patcher.load_device, dtype, mm.intermediate_device()
        self.patcher, self._ranks = patcher, ranks
        self.model_size()

    def decode_into(self, latents: Tensor, take: Callable[[Tensor], None]) -> None:
        """Give the frames of latents (B, 12, T, h, w) to `take` as they are ready, (some, H, W, 3) in uint8 on the CPU.

        So the video need not exist as a whole. The videos of a batch come one after the other. For a GPU, `take` is
        called in a thread of its own.
        """
        needed = self._layers(latents.shape) * mm.dtype_size(self.vae_dtype)
        mm.load_models_gpu([self.patcher], memory_required=needed, force_full_load=self.disable_offload)

        try:
            with Outgoing(self.device) as outgoing:

                def finished(frames: Tensor) -> None:
                    outgoing.send(take, to_bytes(self.process_output(frames.float()))[0].movedim(0, -1))

                for one in latents.split(1):
                    self.first_stage_model.decode_into(one.to(self.device, self.vae_dtype), finished)
        except mm.OOM_EXCEPTION as error:
            raise MochiError(
                "The GPU cannot hold the layers of one latent frame. Put Mochi VAE Decode before this node, with "
                "`tile` at 512 or 256, which is approximate; or make a smaller video, or choose more GPUs in Load "
                "AsymmVAE (Mochi)."
            ) from error

    def get_sd(self) -> dict[str, Tensor]:
        """The weights by name, for nodes that save them. These can write contiguous tensors only."""
        return {name: weight.contiguous() for name, weight in super().get_sd().items()}

    def memory_used_decode(self, shape: torch.Size, dtype: torch.dtype) -> float:
        """Bytes to decode latents of this shape.

        The host asks before it does anything else. So wrong latents are refused here, in the same way for every node.
        """
        layers = self._layers(shape)
        # The video itself is put together where the layers are, and by ranks elsewhere.
        video = 0 if self._ranks > 1 else 3 * frame_count(shape[2]) * shape[3] * shape[4] * SPACE * SPACE
        return (layers + video) * mm.dtype_size(dtype)

    def _layers(self, latents: Sequence[int]) -> int:
        """Values alive in the decoder at the peak, for one of the samples.

        Raises MochiError for latents that are not Mochi's, and where there is no decoder.
        """
        check_latent(latents)
        return sum(strip_values(self.first_stage_model.need_decoder().config, latents, self._ranks).values())

    def memory_used_encode(self, shape: torch.Size, dtype: torch.dtype) -> float:
        """Bytes to encode frames of this shape."""
        # Layers hold the frames of one latent frame at a time, or strips of as many latent frames as there are ranks.
        # What has been made of the other frames is kept.
        config, frame = self.first_stage_model.need_encoder().config, shape[3] * shape[4]
        layers = ENCODE_VALUES * config.base * (TIME + 1) * frame
        kept = kept_values(config) * shape[2] * frame
        return (layers + kept / self._ranks) * mm.dtype_size(dtype)


def load_vae(decoder_file: Checkpoint | None, encoder_file: Checkpoint | None, dtype: str = "auto") -> MochiVAE:
    """A VAE of a decoder, an encoder or both. dtype: of the widget; "auto" is the host's choice.

    Raises CheckpointError for anything that is not a whole AsymmVAE decoder or encoder.
    """
    compute = vae_dtype(dtype)
    return MochiVAE(load_vae_patcher(decoder_file, encoder_file, compute), compute)


def load_vae_patcher(
    decoder_file: Checkpoint | None,
    encoder_file: Checkpoint | None,
    dtype: torch.dtype,
    disable_dynamic: bool = False,
) -> ModelPatcher:
    """The patcher of `load_vae`'s VAE. disable_dynamic: as in `load_model`."""
    device, offload_device, operations = mm.vae_device(), mm.vae_offload_device(), with_parameters(Operations)
    decoder = None if decoder_file is None else load_decoder(decoder_file, dtype, offload_device, operations)
    encoder = None if encoder_file is None else load_encoder(encoder_file, dtype, offload_device, operations)
    model = in_order(AsymmVAE(decoder, encoder), device).eval()
    patcher = core_patcher(not disable_dynamic)(model, device, offload_device)
    remember_loader(patcher, load_vae_patcher, decoder_file, encoder_file, dtype)
    return patcher


def vae_dtype(name: str, elsewhere: str = "") -> torch.dtype:
    """The dtype of the widget; the host's choice for "auto", or the usual one of other machines' devices, "cpu" or
    "cuda"."""
    if elsewhere:
        return chosen_dtype(name, DTYPES) or (torch.float32 if elsewhere == "cpu" else torch.bfloat16)
    host = mm.vae_dtype(mm.vae_device(), [torch.bfloat16, torch.float16, torch.float32])
    return chosen_dtype(name, DTYPES) or host


@contextmanager
def _without_warning(start: str) -> Iterator[None]:
    """Keep one expected warning of the host out of its log."""
    root = logging.getLogger()

    def other(record: logging.LogRecord) -> bool:
        return start not in record.getMessage()

    root.addFilter(other)
    try:
        yield
    finally:
        root.removeFilter(other)


def check_encodes(vae: comfy.sd.VAE) -> None:
    """Raise MochiError for a VAE, ours or ComfyUI's, that cannot encode frames for Mochi."""
    if vae.latent_channels != CHANNELS or vae.latent_dim != VIDEO:
        raise MochiError(
            f"vae is that of another model: its latents have {vae.latent_channels} channels and {vae.latent_dim} "
            f"axes, but Mochi's {CHANNELS} and {VIDEO}. Use Load AsymmVAE (Mochi), or Load VAE with mochi_vae."
        )
    if isinstance(vae, MochiVAE):
        vae.first_stage_model.need_encoder()
