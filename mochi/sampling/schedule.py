"""The published sigma schedule: small linear steps while there is only noise, then quadratically larger ones."""

from ..errors import MochiError

SCHEDULES = {"mochi": (0.025, 0.5), "distilled": (0.1, 0.75)}
"""Threshold noise and the linear part of the steps: of the published model, and of FastMochi, distilled for 8 steps."""


def scheduled(name: str, steps: int) -> list[float]:
    """One of SCHEDULES for so many steps. Raises MochiError on another name."""
    if name not in SCHEDULES:
        raise MochiError(f"schedule is {name!r}, but must be one of {', '.join(SCHEDULES)}")
    threshold_noise, linear = SCHEDULES[name]
    return linear_quadratic(steps, threshold_noise, int(steps * linear))


def linear_quadratic(steps: int, threshold_noise: float = 0.025, linear_steps: int | None = None) -> list[float]:
    """`steps + 1` noise levels from 1 to 0.

    The first `linear_steps` (half of them by default) go down to `1 - threshold_noise` evenly, the rest
    follows a parabola that continues their slope. Raises MochiError on values that give no schedule.
    """
    if steps < 1:
        raise MochiError(f"steps is {steps}, but a run needs at least 1")
    linear = steps // 2 if linear_steps is None else linear_steps
    if not 0 <= linear <= steps:
        raise MochiError(f"linear_steps is {linear}, but must be between 0 and the number of steps, {steps}")
    if not 0 < threshold_noise < 1:
        raise MochiError(f"threshold_noise is {threshold_noise}, but must lie between 0 and 1")
    if linear == 0 or steps == 1:
        # No linear part to continue: the parabola starts flat.
        return [1 - (k / steps) ** 2 for k in range(steps)] + [0.0]
    sigmas = [1 - threshold_noise * i / linear for i in range(linear)]
    quadratic = steps - linear
    if quadratic:
        slope = threshold_noise / linear
        curve = (1 - threshold_noise - slope * quadratic) / quadratic**2
        sigmas += [1 - (threshold_noise + slope * k + curve * k**2) for k in range(quadratic)]
    return [*sigmas, 0.0]
