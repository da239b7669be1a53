"""From noise to latents: sigma schedule, guidance, Euler loop. Does not know how many devices there are."""

from .euler import Denoised, Given, Watch, sample
from .guidance import SkipLayers, guide, guided, per_step_cfg
from .schedule import linear_quadratic

__all__ = ["Denoised", "Given", "SkipLayers", "Watch", "guide", "guided", "linear_quadratic", "per_step_cfg", "sample"]
