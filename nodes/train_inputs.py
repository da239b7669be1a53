"""The widgets of Mochi Train LoRA. Their order is for ever, as those of each node."""

from typing import get_args

from comfy_api.latest import io

from ..mochi.train.job import Format, Placement
from ..mochi.train.settings import LEVELS, RECOMPUTE, TrainSettings
from . import widgets
from .host import files
from .host.sockets.dtypes import QUANT_DTYPES
from .loaders import IN_FILE
from .parallel import MAX_GPUS, MochiParallel

MAX_STEPS = 1_000_000
MAX_RANK = 1024
MAX_RATE = 1.0
MAX_ALPHA = 4096.0
MAX_BATCH = 64
DTYPES = {name: dtype for name, dtype in QUANT_DTYPES.items() if name != "float16"}
"""Gradients run out of the range of float16."""

AUTO = -1
OWN = "0: the model's own."
USUAL = TrainSettings()
USUAL_KEEP = 0.25
FORMATS = get_args(Format)


def training_inputs() -> list[io.Input]:
    """What, where to, with which model, how; and, optional, what few need."""
    return [*_usual(), *_optional()]


def _usual() -> list[io.Input]:
    vaes = files.list_files("vae")
    return [
        io.String.Input(
            "data",
            default="",
            tooltip="A folder with clips and pictures, each beside a text file of the same name with its "
            "caption; or a .csv or .jsonl of path and caption. Below ComfyUI's input folder, or anywhere.",
        ),
        io.String.Input(
            "name",
            default="my_lora",
            tooltip="Of the LoRA, which is put into models/loras. It may have folders in it.",
        ),
        widgets.choice("dit", files.list_files("dit"), "The denoiser, as in Load AsymmDiT (Mochi)."),
        widgets.choice("t5", files.list_files("t5"), "The text encoder, as in Load T5 (Mochi)."),
        widgets.choice("vae", vaes, "As in Load AsymmVAE (Mochi)."),
        widgets.choice(
            "encoder_file",
            [IN_FILE, *vaes],
            "encoder.safetensors as published, where the encoder is not in the VAE's file. Clips are read with it.",
        ),
        widgets.count(
            "steps",
            USUAL.steps,
            (1, MAX_STEPS),
            "How long it trains, steps of an earlier run that it goes on with included.",
        ),
        widgets.number(
            "learning_rate",
            USUAL.lr,
            (1e-8, MAX_RATE),
            "How far a step goes. From there it falls to 0 by a cosine.",
            step=1e-6,
            round=False,
        ),
        widgets.count(
            "rank",
            USUAL.attention.rank,
            (0, MAX_RANK),
            "Of the LoRA in attention: how much it can hold, and how large its file is.",
        ),
        widgets.number("alpha", 0.0, (0.0, MAX_ALPHA), "It counts alpha / rank times. 0: as the rank, once.", step=1.0),
        widgets.count(
            "frames",
            0,
            (0, widgets.MAX_FRAMES),
            "6k + 1 of them are taken of each clip. More take more memory. 0: the model's own, 37 at most.",
        ),
        widgets.count(
            "width", 0, (0, widgets.MAX_SIZE), f"In pixels, that clips are cut and scaled to. {OWN}", step=16
        ),
        widgets.count("height", 0, (0, widgets.MAX_SIZE), f"In pixels. {OWN}", step=16),
        widgets.count("batch", USUAL.batch, (1, MAX_BATCH), "Clips that each GPU trains on in a step."),
        widgets.count(
            "sample_every",
            200,
            (0, MAX_STEPS),
            "Steps between two looks: sample clips, and a checkpoint. 0: no sample clips.",
        ),
        io.String.Input(
            "sample_prompts",
            multiline=True,
            default="",
            tooltip="Of the sample clips, a prompt a line. Empty: captions of two of your clips.",
        ),
        widgets.count(
            "seed",
            0,
            (0, 2**63 - 1),
            "Of all that is drawn: noise, levels, the order of clips. Another one is another run.",
            control_after_generate=False,
        ),
        io.Boolean.Input(
            "restart",
            default=False,
            tooltip="Throw away what an earlier run of this name has learned, rather than go on with it.",
        ),
    ]


def _optional() -> list[io.Input]:
    return [
        widgets.choice(
            "gpus",
            [*map(str, range(1, MAX_GPUS + 1)), "all"],
            "How many GPUs train together, each on clips of its own. Without any GPU they are processes on the CPU.",
            optional=True,
        ),
        MochiParallel.Input(
            "parallel",
            optional=True,
            tooltip="From Mochi Parallel Settings, instead of `gpus`: which GPUs; how many share a clip "
            "(ulysses); whether each holds the whole model (weights). Not those of a cluster.",
        ),
        widgets.count(
            "mlp_rank", 0, (0, MAX_RANK), "Of a LoRA in the MLPs too, with as much alpha. 0: none.", optional=True
        ),
        widgets.number(
            "dropout",
            0.0,
            (0.0, 0.99),
            "The share of a LoRA's inputs that are left out in a step, against learning by heart.",
            step=0.01,
            optional=True,
        ),
        widgets.choice(
            "levels",
            LEVELS,
            "How noise levels are drawn. uniform: all alike, as published. logit-normal: more of the middle.",
            optional=True,
        ),
        widgets.choice(
            "dtype",
            DTYPES,
            "Of the frozen model. auto: quantised weights (fp8, GGUF) stay as they are; others in bfloat16 on "
            "a GPU, float32 on the CPU. float8_e4m3fn halves the memory that it takes.",
            optional=True,
        ),
        widgets.choice(
            "format",
            FORMATS,
            "The names in the file. published: as Mochi's own trainer. diffusers: for diffusers. ComfyUI reads both.",
            optional=True,
        ),
        widgets.count("accumulate", 1, (1, 1024), "Batches of a step, where more do not fit at once.", optional=True),
        widgets.count(
            "warmup",
            AUTO,
            (AUTO, MAX_STEPS),
            "Steps in which the learning rate rises at first. -1: 200, but a tenth of the steps at most.",
            optional=True,
        ),
        widgets.number(
            "ema",
            0.0,
            (0.0, 0.9999),
            "How much of the average of the weights stays in a step, such as 0.99; that average is the LoRA. 0: none.",
            step=0.001,
            round=0.0001,
            optional=True,
        ),
        widgets.count(
            "hold_out", 0, (0, 1024), "Clips that are not trained on: the loss on them is shown.", optional=True
        ),
        widgets.count("windows", 1, (1, 64), "How many parts are taken of a long clip.", optional=True),
        widgets.choice(
            "recompute",
            [Placement.recompute, *(name for name in RECOMPUTE if name != Placement.recompute)],
            "What is computed twice rather than kept. blocks: the least memory. nothing: the fastest.",
            optional=True,
        ),
        io.String.Input(
            "keep_prompts",
            multiline=True,
            default="",
            optional=True,
            tooltip="Prompts of what the model makes now and is to make as well with the LoRA, one a line.",
        ),
        widgets.number(
            "keep",
            USUAL_KEEP,
            (0.0, 0.95),
            "The share of clips that are for the prompts to keep, where there are such.",
            step=0.05,
            optional=True,
        ),
    ]
