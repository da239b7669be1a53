"""Loaders: the text encoder, the denoiser and the VAE from ComfyUI's model folders, or the built-in tiny model."""

import logging

from comfy_api.latest import io

from ..mochi.checkpoint import Checkpoint
from ..mochi.dit.backends import SDPA
from ..mochi.parallel.settings import ParallelSettings
from ..mochi.variant import VARIANTS, takes_frames, variant_of
from . import widgets
from .host import files
from .host.checks import ABSENT, check_choice, complaint
from .host.progress import show_text
from .host.ranks.model import load_remote_model
from .host.ranks.vae import load_remote_vae
from .host.sampling.fits import warn_if_short
from .host.sockets.attention import ATTENTIONS
from .host.sockets.clip import DEVICES, load_clip
from .host.sockets.dtypes import DIT_DTYPES, DTYPES, QUANT_DTYPES
from .host.sockets.model import load_model
from .host.sockets.vae import load_vae
from .parallel import check_gpus, parallel_inputs, parallel_settings

IN_FILE = "in the file itself"
AUTO = "auto"

log = logging.getLogger(__name__)


class LoadT5(widgets.Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return widgets.schema(
            "MochiParallelLoadT5",
            "Load T5 (Mochi)",
            "Loads the T5 encoder that turns prompts into what Mochi reads.",
            found_as=("clip loader", "text encoder", "t5xxl"),
            inputs=[
                widgets.choice(
                    "file",
                    files.list_files("t5"),
                    "A file (t5xxl_fp16.safetensors, fp8, GGUF) or a Hugging Face folder (of google/t5-v1_1-xxl) in "
                    "models/text_encoders, a file of the whole model in models/checkpoints, or the built-in tiny "
                    "model.",
                ),
                widgets.choice(
                    "dtype",
                    QUANT_DTYPES,
                    "auto: quantised weights (fp8, GGUF) stay as they are; others in bfloat16 on a GPU (float16 on one "
                    "that has none), on the CPU in float32 where there is memory for it.",
                ),
                widgets.choice(
                    "device",
                    DEVICES,
                    "cpu leaves the GPU's memory to the rest, and takes some seconds for each prompt.",
                ),
            ],
            outputs=[io.Clip.Output(tooltip="For Mochi Text Encode, or CLIP Text Encode.")],
        )

    @classmethod
    def validate_inputs(cls, file: str) -> bool | str:
        return complaint(files.check_file, file, "t5") or True

    @classmethod
    def execute(cls, file: str, dtype: str, device: str) -> io.NodeOutput:
        return io.NodeOutput(load_clip(files.open_file(file, "t5"), dtype, device))


class LoadDiT(widgets.Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return widgets.schema(
            "MochiParallelLoadDiT",
            "Load AsymmDiT (Mochi)",
            "Loads Mochi's denoiser, the large part of the model.",
            found_as=("diffusion model", "unet loader", "gguf", "multi gpu", "genmo"),
            inputs=[
                widgets.choice(
                    "file",
                    files.list_files("dit"),
                    "A file in models/diffusion_models or models/checkpoints, of any kind: as published, of ComfyUI, "
                    "fp8, GGUF; or a diffusers folder there or in models/diffusers; or the built-in tiny model.",
                ),
                widgets.choice(
                    "dtype",
                    DIT_DTYPES,
                    "Of the weights in memory. auto: quantised weights (fp8, GGUF) stay as they are, and are unpacked "
                    "layer by layer; others in bfloat16 on a GPU, float32 on the CPU, unless ComfyUI was started with "
                    "another choice. float8_e4m3fn halves them, and is not exact. _fast multiplies in float8 too, on "
                    "GPUs that can (RTX 40, H100 and later): faster, and less exact.",
                ),
                *parallel_inputs(),
                widgets.choice(
                    "attention",
                    ATTENTIONS,
                    "sdpa: torch's own. flash2, flash3 (FlashAttention), sage (SageAttention): where they are "
                    "installed, on GPUs, in bfloat16 or float16. comfyui: what ComfyUI was started with.",
                    optional=True,
                ),
                io.Boolean.Input(
                    "compile",
                    default=False,
                    optional=True,
                    tooltip="torch.compile of the blocks: the first step takes a minute longer, the others are faster. "
                    "Needs a C++ compiler, on GPUs Triton; without them it runs as it is.",
                ),
                widgets.choice(
                    "variant",
                    (AUTO, *VARIANTS),
                    "preview: the plain Mochi. pusa: Pusa V0.5, which takes given frames (image to video). frames: "
                    "another one that was trained so, as the tiny model is. auto: by the file's metadata and name; the "
                    "tensors do not tell.",
                    optional=True,
                ),
            ],
            outputs=[io.Model.Output(tooltip="For Mochi Sampler, any sampler of ComfyUI, LoRA and model-patch nodes.")],
        )

    @classmethod
    def validate_inputs(cls, file: str, gpus: str = "1", parallel: object = ABSENT) -> bool | str:
        found = complaint(files.check_file, file, "dit", widget="file")
        found = found or complaint(check_gpus, gpus, parallel, widget="gpus")
        return found or complaint(_check_for_ranks, file, gpus, parallel, widget="file") or True

    @classmethod
    def execute(
        cls,
        file: str,
        dtype: str,
        gpus: str = "1",
        parallel: ParallelSettings | None = None,
        attention: str = SDPA,
        compile: bool = False,
        variant: str = AUTO,
    ) -> io.NodeOutput:
        checkpoint, settings = files.open_file(file, "dit"), parallel_settings(gpus, parallel)
        variant = _chosen_variant(checkpoint, variant)
        if settings.in_process:
            model = load_model(checkpoint, dtype, attention, compile, variant)
        else:
            model = load_remote_model(checkpoint, dtype, settings, attention, compile, variant)
        warn_if_short(model)
        return io.NodeOutput(model)


class LoadVAE(widgets.Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        vaes = files.list_files("vae")
        return widgets.schema(
            "MochiParallelLoadVAE",
            "Load AsymmVAE (Mochi)",
            "Loads Mochi's VAE, which turns latents into frames and frames into latents.",
            found_as=("vae loader", "decoder", "genmo"),
            inputs=[
                widgets.choice(
                    "file",
                    vaes,
                    "A file in models/vae or models/checkpoints (decoder.safetensors as published, "
                    "mochi_vae.safetensors of ComfyUI), or a diffusers folder there or in models/diffusers; or the "
                    "built-in tiny model.",
                ),
                widgets.choice(
                    "encoder_file",
                    [IN_FILE, *vaes],
                    "encoder.safetensors as published, where the encoder is not in the file above. Only encoding needs "
                    "it.",
                ),
                widgets.choice(
                    "dtype",
                    DTYPES,
                    "To compute in. auto: bfloat16 on a GPU, float32 on the CPU, unless ComfyUI was started with "
                    "another choice.",
                ),
                *parallel_inputs(),
            ],
            outputs=[io.Vae.Output(tooltip="For Mochi VAE Decode and Encode, or ComfyUI's own, tiled ones included.")],
        )

    @classmethod
    def validate_inputs(
        cls, file: str, encoder_file: str = IN_FILE, gpus: str = "1", parallel: object = ABSENT
    ) -> bool | str:
        if encoder_file == IN_FILE:
            found = complaint(files.check_vae, file, widget="file")
        else:
            found = complaint(files.check_decoder, file, widget="file")
            found = found or complaint(files.check_encoder, encoder_file, widget="encoder_file")
        return found or complaint(check_gpus, gpus, parallel, widget="gpus") or True

    @classmethod
    def execute(
        cls, file: str, encoder_file: str, dtype: str, gpus: str = "1", parallel: ParallelSettings | None = None
    ) -> io.NodeOutput:
        decoder, encoder = files.open_vae(file, None if encoder_file == IN_FILE else encoder_file)
        settings = parallel_settings(gpus, parallel)
        if settings.in_process:
            return io.NodeOutput(load_vae(decoder, encoder, dtype))
        return io.NodeOutput(load_remote_vae(decoder, encoder, dtype, settings))


def _chosen_variant(checkpoint: Checkpoint, variant: str) -> str:
    """The variant of a file, as chosen or as it says; told in the log, and in the node where it takes given frames."""
    check_choice("variant", variant, (AUTO, *VARIANTS))
    reason = "chosen"
    if variant == AUTO:
        variant, reason = variant_of(checkpoint.path, checkpoint.metadata)
    text = f"variant {variant}: {reason}"
    log.info("%s: %s", checkpoint.path.name, text)
    if takes_frames(variant):
        show_text(text)
    return variant


def _check_for_ranks(file: str, gpus: str, parallel: object) -> None:
    """Raise MochiError where ranks are asked for that cannot read the file."""
    if parallel is ABSENT and not parallel_settings(gpus, None).in_process:
        files.check_file(file, "dit", in_process=False)
