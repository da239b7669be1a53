"""How one generation is spread over GPUs, and the status of the processes that do it."""

import time
from typing import Any

from comfy_api.latest import io, ui

from ..mochi.cluster.attach import attach, check_address, check_installed
from ..mochi.parallel.actors.placement import gpus_of_each, place_ranks
from ..mochi.parallel.settings import SHARDING_CHOICES, TIMEOUT, ParallelSettings
from . import widgets
from .host.checks import ABSENT, check_choice, complaint
from .host.progress import show_text
from .host.ranks.group import PLACE, groups
from .host.sockets.dtypes import runs_on_cpu

MAX_GPUS = 16
MAX_MACHINES = 64
GUIDANCE = ("auto", "1", "2", "3")

MochiParallel = io.Custom("MOCHI_PARALLEL")


class Parallel(widgets.Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return widgets.schema(
            "MochiParallelSettings",
            "Mochi Parallel Settings",
            "Which GPUs make one video together, and how the work is split. For the `parallel` input of the loaders; "
            "link it to all of them, and they share one group of processes.",
            found_as=("multi gpu", "context parallel", "distributed", "ulysses", "fsdp"),
            inputs=[
                io.String.Input(
                    "gpus",
                    default="all",
                    tooltip="all, how many (4), or which, counted from 0 (0,1,3). Without any GPU a number is that of "
                    "processes on the CPU.",
                ),
                widgets.choice(
                    "guidance",
                    GUIDANCE,
                    "2: one half of the GPUs computes with the prompt, the other one with the negative prompt, which "
                    "sends the least. 3: with skip-layer guidance, a third for each of its passes. auto: as many as a "
                    "step has passes, where the number of GPUs divides by it.",
                ),
                widgets.count(
                    "ulysses",
                    0,
                    (0, MAX_GPUS),
                    "How many GPUs share one forward pass; must divide the model's 24 heads, and times guidance be the "
                    "number of GPUs. 0: what is left.",
                ),
                widgets.choice(
                    "weights",
                    SHARDING_CHOICES,
                    "replicated: every GPU holds all weights (20 GB), the fastest. sharded: each holds its part "
                    "(FSDP2). offloaded: its part in the machine's memory, for small cards. auto: replicated where "
                    "there is room.",
                ),
                widgets.number(
                    "timeout",
                    TIMEOUT,
                    (1.0, 86400.0),
                    "Seconds without progress after which a process counts as hanging, and the prompt ends with an "
                    "error.",
                    step=10.0,
                ),
                io.String.Input(
                    "cluster",
                    default="",
                    optional=True,
                    tooltip="Empty: the GPUs of this machine. auto, or the HOST:PORT of its head: those of the "
                    "machines of a Ray cluster that this machine takes part in; then `gpus` is how many of each.",
                ),
                widgets.count(
                    "machines",
                    0,
                    (0, MAX_MACHINES),
                    "How many machines of the cluster make one video. 0: one for each forward pass of a step, so that "
                    "almost nothing crosses between them.",
                    optional=True,
                ),
                io.String.Input(
                    "interface",
                    default="",
                    optional=True,
                    tooltip="The network interface by which the machines of the cluster reach each other, the same "
                    "name on each, such as ib0. Empty: the one that Ray uses.",
                ),
                io.Boolean.Input(
                    "send_weights",
                    default=False,
                    optional=True,
                    tooltip="Send the model's files to machines that lack them; each keeps them. Otherwise a file that "
                    "is not there is an error.",
                ),
            ],
            outputs=[
                MochiParallel.Output(display_name="parallel", tooltip="For the loaders of AsymmDiT and AsymmVAE.")
            ],
        )

    @classmethod
    def validate_inputs(
        cls,
        gpus: str,
        guidance: str,
        ulysses: int,
        weights: str,
        timeout: float,
        cluster: str = "",
        machines: int = 0,
        interface: str = "",
        send_weights: bool = False,
    ) -> bool | str:
        chosen = gpus, guidance, ulysses, weights, timeout, cluster, machines, interface, send_weights
        return complaint(_check, *chosen, widget="cluster") or True

    @classmethod
    def execute(cls, **chosen: Any) -> io.NodeOutput:
        settings = _settings(**chosen)
        if settings.cluster:
            place_ranks(attach(settings.cluster).machines(), settings)  # says here, not in a loader, what is not there
        return io.NodeOutput(settings)


class GroupStatus(widgets.Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return widgets.schema(
            "MochiParallelGroupStatus",
            "Mochi Group Status",
            "Shows the processes that share a generation now: devices, process ids, memory, loaded models and how "
            "their work is split.",
            found_as=("multi gpu", "memory", "ranks"),
            inputs=[
                io.AnyType.Input(
                    "after",
                    optional=True,
                    tooltip="Anything, such as the LATENT of a sampler: the status is read once it is there.",
                )
            ],
            outputs=[io.String.Output(display_name="status", tooltip="The text that the node shows.")],
            is_output_node=True,
        )

    @classmethod
    def fingerprint_inputs(cls, **_: Any) -> float:
        return time.monotonic()  # never the same, so that the node runs each time

    @classmethod
    def execute(cls, after: Any = None) -> io.NodeOutput:
        text = groups.status()
        show_text(text)
        return io.NodeOutput(text, ui=ui.PreviewText(text))


def parallel_inputs() -> list[io.Input]:
    """The inputs of a loader that say how many GPUs share the work of its model."""
    return [
        widgets.choice(
            "gpus",
            [*map(str, range(1, MAX_GPUS + 1)), "all"],
            "How many GPUs share the work. 1: the model runs in ComfyUI's own process. More: a process for each GPU, "
            "which stays for the next prompt. Without any GPU they are processes on the CPU, to try it.",
            optional=True,
        ),
        MochiParallel.Input(
            "parallel",
            optional=True,
            tooltip="From Mochi Parallel Settings: which GPUs, and how the work is split; instead of `gpus`.",
        ),
    ]


def parallel_settings(gpus: str, parallel: ParallelSettings | None) -> ParallelSettings:
    """The settings that the inputs of a loader stand for."""
    return ParallelSettings(gpus=gpus, cpu=runs_on_cpu(), place=PLACE) if parallel is None else parallel


def check_gpus(gpus: str, parallel: object) -> None:
    """Raise MochiError where a loader's `gpus` asks for GPUs that are not there, unless `parallel` takes its place."""
    if parallel is ABSENT:
        parallel_settings(gpus, None).devices()


def _settings(
    gpus: str,
    guidance: str,
    ulysses: int,
    weights: str,
    timeout: float,
    cluster: str = "",
    machines: int = 0,
    interface: str = "",
    send_weights: bool = False,
) -> ParallelSettings:
    check_choice("guidance", guidance, GUIDANCE)
    degree = 0 if guidance == "auto" else int(guidance)
    of_cluster = cluster.strip(), machines, interface.strip(), send_weights
    cpu = runs_on_cpu() and not cluster.strip()  # which says nothing of other machines
    return ParallelSettings(gpus, degree, ulysses, weights, timeout, cpu, PLACE, *of_cluster)


def _check(*chosen: Any) -> None:
    """Raise MochiError where the devices or the cluster that the widgets ask for cannot be. Attaches to no cluster."""
    settings = _settings(*chosen)
    if not settings.cluster:
        settings.devices()
        return
    check_address(settings.cluster)
    check_installed()
    gpus_of_each(settings)
