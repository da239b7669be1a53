"""The model of a directory, ready to make videos."""

from pathlib import Path

import torch

from ..device_memory import usual_device
from ..dit.backends import SDPA
from ..errors import MochiError
from ..model_dir import ModelDir, find_model
from ..parallel.managers import manager_for
from ..parallel.settings import ParallelSettings
from ..quant import FLOAT8
from ..text import load_prompt_encoder
from ..text.layout import find_tokenizer
from ..variant import check_variant
from .local import load_local
from .pipeline import Pipeline
from .remote import load_remote


def load_pipeline(
    model: str | Path | ModelDir | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    attention: str = SDPA,
    compiled: bool = False,
    parallel: ParallelSettings | None = None,
    variant: str | None = None,
    passes: int = 2,
    offload: bool = False,
) -> Pipeline:
    """Load a model.

    Args:
        model: its directory, see `find_model`; None for the built-in tiny one.
        dtype: of weights and computation. By default float32 on the CPU and bfloat16 elsewhere, and quantised weights
            stay so. A float8 dtype is for the weights of Linear layers alone.
        device: by default the GPU if there is one.
        attention: one of ATTENTIONS.
        compiled: whether torch.compile compiles the denoiser's blocks.
        parallel: the devices that denoise and decode together, in place of `device`.
        variant: which Mochi the denoiser is, one of VARIANTS; by default as `ModelDir.variant` says.
        passes: that a step of every video has, see `GenerateSettings.passes`; so many devices can share it.
        offload: whether the denoiser and the decoder are on the CPU while they do not compute, as T5 always is.

    Raises CheckpointError on files that are missing or wrong, MochiError on an attention that cannot be used here, on
    devices that are not there, on a split that cannot be, and on one of networks that are to be on the CPU.
    """
    if offload and parallel is not None:
        raise MochiError("networks of several devices stay there: offloading is for one")
    files = model if isinstance(model, ModelDir) else find_model(model)
    variant = files.variant[0] if variant is None else variant
    check_variant(variant)
    tokenizer = files.tokenizer or find_tokenizer(files.text_encoder.path)
    manager = None if parallel is None else manager_for(parallel)
    device = torch.device(device or usual_device())
    is_cpu = (device.type if manager is None else manager.device_type) == "cpu"
    usual_dtype = torch.float32 if is_cpu else torch.bfloat16
    compute_dtype = usual_dtype if dtype is None or dtype in FLOAT8 else dtype
    if parallel is None or manager is None:
        networks = load_local(files, dtype, compute_dtype, device, attention, compiled, offload)
    else:
        networks = load_remote(files, dtype, compute_dtype, parallel, manager, attention, compiled, passes)
    text = load_prompt_encoder(files.text_encoder, tokenizer, dtype=dtype, compute=compute_dtype)
    return Pipeline(files.config, variant, text, *networks)
