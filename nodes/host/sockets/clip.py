"""The CLIP socket: ComfyUI's own CLIP object around our T5 prompt encoder."""

from __future__ import annotations

from typing import Any

import comfy.model_management as mm
import comfy.sd
import torch
from comfy.model_patcher import ModelPatcher
from comfy.ops import CastWeightBiasOp, disable_weight_init
from comfy.supported_models_base import ClipTarget
from torch import Tensor, nn

from ....mochi.checkpoint import Checkpoint
from ....mochi.quant import FLOAT8
from ....mochi.text import PromptEncoder, PromptTokenizer, load_prompt_encoder
from .. import files
from ..checks import check_choice
from ..hosts import remember_loader
from .dtypes import QUANT_DTYPES, chosen_dtype, free_memory
from .quant import patcher_for, quant_layers, with_quant

# The name that ComfyUI gives to T5 in its token tables and state dicts.
NAME = "t5xxl"

DEVICES = ("default", "cpu")


class Tokenizer:
    """ComfyUI's view of our tokenizer. The text is taken literally: Mochi knows no weights such as (word:1.2)."""

    def __init__(self, tokenizer: PromptTokenizer, encoder: TextEncoder):
        self._tokenizer, self._encoder = tokenizer, encoder

    def tokenize_with_weights(self, text: str, return_word_ids: bool = False, **_: Any) -> dict[str, list[list[tuple]]]:
        """One row of (token id, weight 1), with a word id when asked for; id 0 is padding."""
        ids = self._tokenizer(text).ids.tolist()
        return {NAME: [[(token, 1.0, 0) if return_word_ids else (token, 1.0) for token in ids]]}

    def state_dict(self) -> dict[str, Tensor]:
        """The encoder's quantised weights as plain ones: ComfyUI saves what is here in place of the encoder's own."""
        return {f"{name}.weight": layer.whole(torch.bfloat16) for name, layer in quant_layers(self._encoder)}


class TextEncoder(nn.Module):
    """ComfyUI's view of our prompt encoder, which runs on `device`; the state-dict names are those of ComfyUI's T5."""

    def __init__(self, encoder: PromptEncoder, dtype: torch.dtype, device: torch.device):
        super().__init__()
        self._encode, self._device, self._chosen = encoder.encode, device, device
        self.dtypes = {dtype}
        self.t5xxl = nn.Module()
        self.t5xxl.transformer = encoder.model

    def reset_clip_options(self) -> None:
        self._device = self._chosen

    def set_clip_options(self, options: dict[str, Any]) -> None:
        """Where to run is the only one: Mochi reads the last layer, and has no pooled output of T5."""
        self._device = options.get("execution_device", self._device)

    def encode_token_weights(self, tokens: dict[str, list[list[tuple]]]) -> tuple[Tensor, None, dict[str, Tensor]]:
        """Rows of tokens -> features (B, 256, width) float32, no pooled output, and the attention mask (B, 256)."""
        ids = torch.tensor([[entry[0] for entry in row] for row in tokens[NAME]], device=self._device)
        mask = ids != 0
        features = self._encode(ids, mask)
        return features.to(mm.intermediate_device()), None, {"attention_mask": mask.long().to(mm.intermediate_device())}

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Without the second name of the embedding: ComfyUI's T5 has none, and files cannot hold a tensor twice."""
        state = super().state_dict(*args, **kwargs)
        state.pop("t5xxl.transformer.encoder.embed_tokens.weight", None)
        return state

    def load_sd(self, sd: dict[str, Tensor]) -> tuple[list[str], list[str]]:
        return self.get_submodule("t5xxl.transformer").load_state_dict(sd, strict=False)


class MochiCLIP(comfy.sd.CLIP):
    """A CLIP whose encoder is that of its patcher, also where a node gives it another patcher (Select CLIP Device)."""

    _first: Any = None

    @property
    def cond_stage_model(self) -> Any:
        patcher = getattr(self, "patcher", None)
        return self._first if patcher is None else patcher.model

    @cond_stage_model.setter
    def cond_stage_model(self, model: Any) -> None:
        self._first = model  # until there is a patcher

    def clone(self, *args: Any, **kwargs: Any) -> MochiCLIP:
        clone = MochiCLIP(no_init=True)
        vars(clone).update(vars(super().clone(*args, **kwargs)))
        vars(clone).pop("cond_stage_model", None)  # the property says it, and another one would stay in memory
        return clone


def load_clip(
    checkpoint: Checkpoint, dtype: str = "auto", device: str = "default", disable_dynamic: bool = False
) -> MochiCLIP:
    """A CLIP from a T5 file or Hugging Face folder.

    dtype: of the widget. device: "default" (as the host decides) or "cpu". disable_dynamic: as in `load_model`.
    Raises CheckpointError for anything that is not a whole T5 encoder.
    """
    check_choice("device", device, DEVICES)
    on_cpu = device == "cpu"
    load_device = torch.device("cpu") if on_cpu else mm.text_encoder_device()
    offload_device = torch.device("cpu") if on_cpu else mm.text_encoder_offload_device()
    rounded = chosen_dtype(dtype, QUANT_DTYPES)
    plain = rounded if rounded and rounded not in FLOAT8 else _default_dtype(checkpoint, load_device)
    tokenizer, operations = files.tokenizer_for(checkpoint.path), with_quant(disable_weight_init)
    encoder = load_prompt_encoder(checkpoint, tokenizer, rounded, offload_device, compute=plain, operations=operations)
    _let_norms_follow(encoder.model)

    model = TextEncoder(encoder, plain, load_device)
    target = ClipTarget(
        lambda embedding_directory, tokenizer_data: Tokenizer(encoder.tokenizer, model),
        lambda device, dtype, model_options: model,
    )
    # Without an initial device, CLIP does not load the model with the patcher that it makes.
    options = {"load_device": load_device, "offload_device": offload_device, "initial_device": None, "dtype": plain}
    clip = MochiCLIP(target, model_options=options)
    made = clip.patcher
    clip.patcher = patcher_for(model, made.load_device, offload_device, not disable_dynamic)
    clip.patcher.hook_mode, clip.patcher.is_clip = made.hook_mode, made.is_clip
    remember_loader(clip.patcher, load_clip_patcher, checkpoint, dtype, device)
    return clip


def load_clip_patcher(checkpoint: Checkpoint, dtype: str, device: str, disable_dynamic: bool = False) -> ModelPatcher:
    """The patcher of `load_clip`'s CLIP."""
    return load_clip(checkpoint, dtype, device, disable_dynamic).patcher


def _let_norms_follow(model: nn.Module) -> None:
    """Have T5's norms move to the device of their input.

    ComfyUI has no layer of that kind, and leaves them behind where memory is short.
    """
    for module in model.modules():
        if not isinstance(module, CastWeightBiasOp) and any(True for _ in module.parameters(recurse=False)):
            module.register_forward_pre_hook(_follow_input)


def _follow_input(module: nn.Module, inputs: tuple[Any, ...]) -> None:
    module.to(inputs[0].device)


def _default_dtype(checkpoint: Checkpoint, device: torch.device) -> torch.dtype:
    """bfloat16 on a GPU that has it, else float16; on a CPU float32, if twice the size of the files fits in half of the
    free memory.
    """
    if not mm.is_device_cpu(device):
        return torch.bfloat16 if mm.should_use_bf16(device) else torch.float16
    return torch.float32 if 2 * checkpoint.nbytes < free_memory(device) / 2 else torch.bfloat16
