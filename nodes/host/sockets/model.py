"""The MODEL socket: ComfyUI's own model patcher around AsymmDiT, so that its memory management, casting, LoRA
patches, samplers and model-patch nodes work on it.
"""

import logging
from collections.abc import Sequence
from typing import Any

import comfy.model_base
import comfy.model_management as mm
import comfy.supported_models_base
import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import CallbacksMP
from torch import Tensor

from ....mochi.checkpoint import Checkpoint, fill
from ....mochi.config import DiTConfig
from ....mochi.dit.backends import SDPA
from ....mochi.dit.runner import block_call
from ....mochi.errors import MochiError
from ....mochi.quant import FLOAT8, use_float8_products
from ....mochi.variant import PREVIEW, given_latents, takes_frames
from ..checks import check_text
from ..hosts import remember_loader
from ..quantiser import use_native_products
from .attention import attention_named, describe
from .dtypes import DIT_DTYPES, FAST, chosen_dtype
from .given import give_frames_levels, levels_of
from .latents import latent_format
from .network import HostDiT
from .quant import patcher_for, quant_layers, with_quant

log = logging.getLogger(__name__)


class Config(comfy.supported_models_base.BASE):
    """The model in a checkpoint as ComfyUI wants it described, and how its weights are loaded.

    Attributes:
        rounded: what weights are rounded to, see Checkpoint.plan; None leaves quantised ones quantised.
        plain: the dtype of weights that are not quantised.
        computed: the dtype of activations.
        fast: whether float8 weights are multiplied in float8.
    """

    unet_extra_config = {}
    sampling_settings = {"multiplier": 1.0, "shift": 6.0}
    supported_inference_dtypes = [torch.bfloat16, torch.float32]
    vae_key_prefix, text_encoder_key_prefix = ["vae."], ["text_encoders."]  # in a checkpoint that is saved

    def __init__(self, checkpoint: Checkpoint, dtype: str):
        """dtype: of the widget; "auto" is the host's choice for a file of this size and dtype."""
        super().__init__({"image_model": "mochi_preview"})
        sizes: DiTConfig = checkpoint.config("dit")
        device, supported = mm.get_torch_device(), self.supported_inference_dtypes
        self.rounded, self.fast = chosen_dtype(dtype, DIT_DTYPES), dtype == FAST
        plain = self.rounded or mm.unet_dtype(
            model_params=checkpoint.count("dit"), supported_dtypes=supported, weight_dtype=checkpoint.dtype("dit")
        )
        if plain in FLOAT8:
            self.rounded, plain = plain, mm.unet_manual_cast(plain, device, supported)
        self.set_inference_dtype(plain, mm.unet_manual_cast(plain, device, supported))
        self.plain: Any = plain
        self.computed: Any = self.manual_cast_dtype or plain
        self.latent_format = latent_format(sizes)
        self._of_file, self._is_chosen = checkpoint.dtype("dit"), chosen_dtype(dtype, DIT_DTYPES) is not None
        # ComfyUI's estimate of the memory of a forward pass, tuned to the published model, goes with the width.
        self.memory_usage_factor = 2.0 * sizes.hidden_x / DiTConfig.hidden_x

    def compute_elsewhere(self, device_type: str) -> None:
        """Have what was this host's choice be the usual dtypes of other machines' CPUs ("cpu") or GPUs ("cuda")."""
        usual = torch.float32 if device_type == "cpu" else torch.bfloat16
        if not self._is_chosen and self.rounded is None:
            self.plain = self._of_file if self._of_file in self.supported_inference_dtypes else usual
        computes = self.plain if self.plain not in FLOAT8 else usual
        self.computed = torch.float32 if device_type == "cpu" else computes


class Mochi(comfy.model_base.GenmoMochi):
    """ComfyUI's Mochi (which tells it what LoRA names mean) with our network in it."""

    diffusion_model: Any  # a HostDiT, unless a patch has put another network there
    variant = PREVIEW

    def __init__(self, config: Config, network: Any, device: torch.device):
        # network: makes a HostDiT. Not GenmoMochi.__init__, which builds the built-in network.
        flow = comfy.model_base.ModelType.FLOW
        comfy.model_base.BaseModel.__init__(self, config, flow, device=device, unet_model=network)

    def extra_conds(self, **kwargs: Any) -> dict[str, Any]:
        """Called once a run for each conditioning; the work on the prompt that no step changes is done here."""
        features, mask = self.prompt(**kwargs)
        conds = super().extra_conds(**{**kwargs, "attention_mask": mask})
        # Weights that a hook changes from step to step, or that are trained, change the text with them.
        if kwargs.get("hooks") is None and not torch.is_grad_enabled():
            device = kwargs["device"]
            features = features.to(device, self.manual_cast_dtype or self.get_dtype())
            conds["text"] = self.diffusion_model.text_cond(features, mask.to(device))
        return conds

    @property
    def given_latents(self) -> str:
        """How given frames enter the network, see `mochi.variant`."""
        return given_latents(self.variant)

    def _apply_model(
        self,
        x: Tensor,
        t: Tensor,
        c_concat: Any = None,
        c_crossattn: Any = None,
        control: Any = None,
        transformer_options: Any = None,
        **kwargs: Any,
    ) -> Tensor:
        """The estimate of z_0; of a frame with a noise level of its own, from that level."""
        options = transformer_options or {}
        levels = levels_of(x.shape[2], options)
        inputs = x, t, c_concat, c_crossattn, control, options
        if levels is None:
            return super()._apply_model(*inputs, **kwargs)
        estimate = super()._apply_model(*inputs, frame_levels=levels, **kwargs)
        # The host takes the flow for noisier than it is by the level.
        return torch.lerp(x, estimate, x.new_tensor(levels)[:, None, None])

    def process_timestep(self, timestep: Tensor, frame_levels: Sequence[float] | None = None, **_: Any) -> Tensor:
        """The network reads sigma itself, from 0 to 1; a node such as ModelSamplingSD3 has it counted to 1000."""
        sigma = timestep / getattr(self.model_sampling, "multiplier", 1.0)
        return sigma if frame_levels is None else sigma[:, None] * sigma.new_tensor(frame_levels)

    def state_dict_for_saving(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Quantised weights are saved as plain ones: ComfyUI's own loaders do not know our formats."""
        saved = super().state_dict_for_saving(*args, **kwargs)
        whole = {name: layer.whole(torch.bfloat16) for name, layer in quant_layers(self.diffusion_model)}
        return saved | {f"model.diffusion_model.{name}.weight": weight for name, weight in whole.items()}

    def prompt(
        self, cross_attn: Tensor | None = None, attention_mask: Tensor | None = None, **_: Any
    ) -> tuple[Tensor, Tensor]:
        """T5 features (b, L, text width) and mask (b, L) of a conditioning. Raises MochiError where they do not fit."""
        cross_attn = check_text(cross_attn, self.diffusion_model.config.text_width)
        if attention_mask is None:
            return cross_attn, torch.ones(cross_attn.shape[:2], dtype=torch.int64, device=cross_attn.device)
        if attention_mask.shape != cross_attn.shape[:2]:
            raise MochiError(
                f"A conditioning has {cross_attn.shape[1]} tokens and a mask for {attention_mask.shape[-1]}: it was "
                "put together from several. Mochi reads one prompt of 256 tokens; use Conditioning Combine or one "
                "longer prompt."
            )
        return cross_attn, attention_mask


def load_model(
    checkpoint: Checkpoint,
    dtype: str = "auto",
    attention: str = SDPA,
    compiled: bool = False,
    variant: str = PREVIEW,
    disable_dynamic: bool = False,
) -> ModelPatcher:
    """A MODEL from a file of AsymmDiT weights.

    Args:
        dtype, attention: of the widgets.
        compiled: whether its blocks are compiled, by torch.compile.
        variant: see `mochi.variant`.
        disable_dynamic: whether the patcher has to be a plain one, as the host asks for by this name.

    Raises CheckpointError for anything that is not a whole AsymmDiT, MochiError for an attention that cannot be used.
    """
    config, load_device = Config(checkpoint, dtype), mm.get_torch_device()

    @torch.inference_mode(False)  # autograd keeps no tensors of that mode, and the host's Train LoRA needs norm weights
    def network(dtype: torch.dtype, device: torch.device, operations: Any, **_: Any) -> HostDiT:
        return fill(checkpoint.plan("dit", HostDiT, config.rounded, dtype, with_quant(operations, load_device)), device)

    computed = attention, load_device, config.computed, checkpoint.config("dit").head_dim
    attend = attention_named(*computed)
    log.info("%s: attention by %s", checkpoint.path.name, describe(*computed))
    model = Mochi(config, network, mm.unet_offload_device())
    model.variant = variant
    model.diffusion_model.attention.chosen = attend
    model.diffusion_model.call = block_call(compiled)
    if config.fast:
        use_float8_products(model)
        use_native_products(model)
    patcher = patcher_for(model, load_device, mm.unet_offload_device(), not (compiled or disable_dynamic))
    remember_loader(patcher, load_model, checkpoint, dtype, attention, compiled, variant)
    if takes_frames(variant):
        give_frames_levels(patcher)
    patcher.add_callback(CallbacksMP.ON_CLEANUP, _forget_run)
    return patcher


def _forget_run(patcher: ModelPatcher) -> None:
    network = patcher.model.diffusion_model
    if isinstance(network, HostDiT):  # a patch can put another one there
        network.forget_run()
