"""The files of Mochi that are published on the hub, and the folder that each belongs into."""

from dataclasses import dataclass
from pathlib import PurePosixPath

from tqdm import tqdm

FOLDERS = {"dit": "diffusion_models", "t5": "text_encoders", "vae": "vae"}
"""The folder below ComfyUI's `models` for each part of a model."""


@dataclass(frozen=True)
class Published:
    """One file on the hub.

    Attributes:
        part: what it holds, one of FOLDERS.
        size: about how many bytes; None where that is not known here.
        stored_as: its name on disk, where that is not the hub's.
    """

    repository: str
    file: str
    part: str
    size: int | None = None
    stored_as: str | None = None

    @property
    def name(self) -> str:
        """The file name on disk, which a person sees in a list of files."""
        return self.stored_as or PurePosixPath(self.file).name

    @property
    def folder(self) -> str:
        """Where it belongs, below ComfyUI's `models`."""
        return FOLDERS[self.part]


COMFY, GENMO, KIJAI = "Comfy-Org/mochi_preview_repackaged", "genmo/mochi-1-preview", "Kijai/Mochi_preview_comfy"
CALCUIS, FAST, PUSA = "calcuis/mochi", "FastVideo/FastMochi", "RaphaelLiu/Pusa-V0.5"
DIT, T5, VAE = FOLDERS

DIT_BF16 = Published(COMFY, "split_files/diffusion_models/mochi_preview_bf16.safetensors", DIT, 20_100_000_000)
DIT_FP8 = Published(COMFY, "split_files/diffusion_models/mochi_preview_fp8_scaled.safetensors", DIT, 10_000_000_000)
DIT_FP32 = Published(GENMO, "dit.safetensors", DIT, 40_100_000_000)
DIT_FAST = Published(FAST, "dit.safetensors", DIT, stored_as="fastmochi_dit.safetensors")
# Its size and hash were not at hand: the hub says them.
DIT_PUSA = Published(PUSA, "pusa_v0_dit.safetensors", DIT)
DIT_Q8 = Published(KIJAI, "mochi_preview_dit_GGUF_Q8_0.safetensors", DIT, 10_900_000_000)
DIT_Q4 = Published(KIJAI, "mochi_preview_dit_GGUF_Q4_0_v2.safetensors", DIT, 5_980_000_000)
DIT_Q3 = Published(CALCUIS, "mochi-q3_k_m.gguf", DIT, 4_310_000_000)

T5_FP16 = Published(COMFY, "split_files/text_encoders/t5xxl_fp16.safetensors", T5, 9_790_000_000)
T5_FP8 = Published(COMFY, "split_files/text_encoders/t5xxl_fp8_e4m3fn_scaled.safetensors", T5, 5_160_000_000)
T5_Q4 = Published(CALCUIS, "t5xxl_fp16-q4_0.gguf", T5, 2_900_000_000)

VAE_BOTH = Published(COMFY, "split_files/vae/mochi_vae.safetensors", VAE, 920_000_000)
DECODER = Published(GENMO, "decoder.safetensors", VAE, 1_450_000_000)
ENCODER = Published(GENMO, "encoder.safetensors", VAE, 389_000_000)

VARIANTS: dict[str, tuple[Published, ...]] = {
    "bf16": (DIT_BF16, T5_FP16, VAE_BOTH),
    "fp8": (DIT_FP8, T5_FP8, VAE_BOTH),
    "gguf": (DIT_Q3, T5_Q4, VAE_BOTH),
    "gguf4": (DIT_Q4, T5_FP8, VAE_BOTH),
    "gguf8": (DIT_Q8, T5_FP8, VAE_BOTH),
    "fast": (DIT_FAST, T5_FP16, VAE_BOTH),
    "pusa": (DIT_PUSA, T5_FP16, VAE_BOTH),
    "published": (DIT_FP32, T5_FP16, DECODER, ENCODER),
}
"""The files of a whole model, by the name of its kind of weights."""

OTHERS = (
    Published(KIJAI, "mochi_preview_dit_bf16.safetensors", DIT, 20_200_000_000),
    Published(KIJAI, "mochi_preview_dit_fp8_e4m3fn.safetensors", DIT, 10_300_000_000),
    Published(KIJAI, "mochi_preview_dit_GGUF_Q4_0_v1.safetensors", DIT, 5_780_000_000),
    Published(KIJAI, "mochi_preview_vae_decoder_bf16.safetensors", VAE, 725_000_000),
    Published(KIJAI, "mochi_preview_vae_encoder_bf16.safetensors", VAE, 725_000_000),
    Published(CALCUIS, "mochi_vae_fp8_e4m3fn.safetensors", VAE, 460_000_000),
)
"""Files that people have besides."""

PUBLISHED = {file.name: file for files in (*VARIANTS.values(), OTHERS) for file in files}
"""Every file, by its name on disk."""


def source_of(name: str) -> Published | None:
    """The published file of that name, which may be in a folder. None if none is known."""
    return PUBLISHED.get(name.replace("\\", "/").rpartition("/")[2])


def hint(name: str) -> str:
    """One sentence for messages: where on the hub a file is, where it belongs, and the command that gets it."""
    file = source_of(name)
    if file is None:
        return "`python -m mochi download --comfyui DIR` gets the files of the published model"
    size = f" ({readable(file.size)})" if file.size else ""
    return (
        f"{file.repository} on the hub has it{size}, it belongs into models/{file.folder}: "
        f"`python -m mochi download --file {file.name} --comfyui DIR` gets it"
    )


def readable(size: int) -> str:
    """A number of bytes for people, such as 20.1GB."""
    return tqdm.format_sizeof(size, "B")
