"""TeaCache: skips the network in steps that hardly differ from the last computed one."""

from comfy_api.latest import io

from ..mochi.errors import MochiError
from . import widgets
from .host.checks import check_range, complaint
from .host.sockets.step_cache import with_cache
from .host.types import Model


class TeaCache(widgets.Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return widgets.schema(
            "MochiParallelTeaCache",
            "TeaCache (Mochi)",
            "Skips the network in steps whose input hardly differs from the last one's, and repeats what it did then: "
            "faster, and somewhat another video.",
            found_as=("step cache", "speed up", "fast"),
            inputs=[
                io.Model.Input("model", tooltip="From Load AsymmDiT (Mochi), on one GPU or several."),
                widgets.fraction(
                    "threshold",
                    0.06,
                    "How much change may add up before the network runs again. An approximation: the higher, the more "
                    "steps are skipped, and the less motion and detail are what they would have been. 0: exact, no "
                    "step is skipped. Others report 1.5 times the speed at 0.06, 2.1 at 0.09. Takes memory on the GPU: "
                    "twice the visual tokens, for each prompt and each video of a batch.",
                    round=0.001,
                ),
                widgets.fraction(
                    "start",
                    0.0,
                    "Steps before this fraction of the schedule are all computed. The first one always is.",
                    optional=True,
                ),
                widgets.fraction(
                    "end",
                    1.0,
                    "Steps behind this fraction of the schedule are all computed. The last one always is.",
                    optional=True,
                ),
            ],
            outputs=[io.Model.Output(tooltip="The model with the cache. The log says which steps were computed.")],
        )

    @classmethod
    def validate_inputs(cls, threshold: float, start: float = 0.0, end: float = 1.0) -> bool | str:
        return complaint(_check_fractions, threshold, start, end) or True

    @classmethod
    def execute(cls, model: Model, threshold: float, start: float = 0.0, end: float = 1.0) -> io.NodeOutput:
        _check_fractions(threshold, start, end)
        return io.NodeOutput(with_cache(model, threshold, start, end))


def _check_fractions(threshold: float, start: float, end: float) -> None:
    for name, value in {"threshold": threshold, "start": start, "end": end}.items():
        check_range(name, value, 0, 1)
    if start > end:
        raise MochiError(f"start is {start} and end {end}, but the steps between them are those that may be skipped.")
