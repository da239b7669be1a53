"""Quantised formats of other libraries, which are not read here; known by names of tensors beside the weights."""

import re
from pathlib import Path

from ...errors import CheckpointError
from ..hosted import ADVICE
from ..lazy import LazyTensors

FORMATS = {
    "NF4 of bitsandbytes": r"\.quant_state\.bitsandbytes__nf4",
    "FP4 of bitsandbytes": r"\.quant_state\.bitsandbytes__fp4",
    "4 bits of bitsandbytes": r"\.(absmax|nested_absmax|quant_map|nested_quant_map)",
    "int8 of bitsandbytes": r"\.(SCB|weight_format)",
    "quanto": r"\.\w+\._(data|scale|shift)(\._\w+)?",
    "torchao": r"\._weight_\w+|\.weight:\w+",
    "SVDQuant of nunchaku": r"\.(wscales|wcscales|wtscale|smooth_factor|smooth_factor_orig)",
    "GPTQ": r"\.g_idx",
    "AWQ": r"\.qzeros",
    "GPTQ or AWQ": r"\.qweight",
    "compressed-tensors": r"\.(weight_packed|weight_shape|weight_zero_point)",
    "HQQ": r"\.W_q",
    "SDNQ": r"\.(svd_up|svd_down|zero_point)",
    "MLX": r"\.biases",
    "AQLM": r"\.codebooks",
    "float8 in blocks (weight_scale_inv)": r"\.weight_scale_inv",
    "NVFP4 of ModelOpt": r"\.weight_scale_2",
    "ModelOpt": r"\.\w+_quantizer\.\w+",
}
"""The ends of names that occur in no other format. The first that is found names a file."""


def check(path: Path, tensors: LazyTensors) -> None:
    """Raise CheckpointError on a file in one of these formats."""
    for title, end in FORMATS.items():
        pattern = re.compile(rf".*({end})")
        if name := next(filter(pattern.fullmatch, tensors), None):
            raise CheckpointError(f"{path}: quantised in the format {title} ({name}), which is not read here; {ADVICE}")
