"""The step cache."""

from __future__ import annotations

from comfy_api.latest import io

from ..mochi.errors import MochiError
from .host.checks import complaint
from .host.sampling.step_cache import with_cache
from .search import also_found_as

CATEGORY = "Mochi"


class TeaCache(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MochiTeaCache",
            display_name="TeaCache (Mochi)",
            category=CATEGORY,
            **also_found_as("step cache", "speed up", "fast"),
            description="Skips the network in steps whose input hardly differs from the last one's, and repeats what "
            "it did then: faster, and somewhat another video.",
            inputs=[
                io.Model.Input("model", tooltip="From Load AsymmDiT (Mochi), on one GPU or several."),
                io.Float.Input(
                    "threshold",
                    default=0.06,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    round=0.001,
                    tooltip="How much change may add up before the network runs again. An approximation: the higher, "
                    "the more steps are skipped, and the less motion and detail are what they would have been. 0: "
                    "exact, no step is skipped. Others report 1.5 times the speed at 0.06, 2.1 at 0.09. Takes memory "
                    "on the GPU: twice the visual tokens, for each prompt and each video of a batch.",
                ),
                io.Float.Input(
                    "start",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    optional=True,
                    tooltip="Steps before this fraction of the schedule are all computed. The first one always is.",
                ),
                io.Float.Input(
                    "end",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    optional=True,
                    tooltip="Steps behind this fraction of the schedule are all computed. The last one always is.",
                ),
            ],
            outputs=[io.Model.Output(tooltip="The model with the cache. The log says which steps were computed.")],
        )

    @classmethod
    def validate_inputs(cls, threshold: float, start: float = 0.0, end: float = 1.0) -> bool | str:
        return complaint(_check_fractions, threshold, start, end)

    @classmethod
    def execute(cls, model: object, threshold: float, start: float = 0.0, end: float = 1.0) -> io.NodeOutput:
        _check_fractions(threshold, start, end)
        return io.NodeOutput(with_cache(model, threshold, start, end))


def _check_fractions(threshold: float, start: float, end: float) -> None:
    for name, value in {"threshold": threshold, "start": start, "end": end}.items():
        if not 0 <= value <= 1:  # NaN is not, either
            raise MochiError(f"{name} is {value}, but must be between 0 and 1.")
    if start > end:
        raise MochiError(f"start is {start} and end {end}, but the steps between them are those that may be skipped.")
