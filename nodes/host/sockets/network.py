"""AsymmDiT as ComfyUI calls a network, and the prompts as ComfyUI carries them through a run."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import comfy.conds
import comfy.ldm.common_dit
import comfy.utils
import torch
from comfy.patcher_extension import WrapperExecutor, WrappersMP, get_all_wrappers
from torch import Tensor, nn

from ....mochi.config import DiTConfig
from ....mochi.dit import AsymmDiT, BlockRunner, TextContext
from ....mochi.dit.attention import use_attention
from ....mochi.dit.cache import StepCache
from ....mochi.dit.levels import Vectors
from ....mochi.dit.runner import BlockCall, call_block
from ....mochi.kernels.graph_break import outside
from .attention import HostAttention
from .step_cache import keys_of, plan_of, report


class HostDiT(AsymmDiT):
    """AsymmDiT with the signature, the sign and the wrappers that ComfyUI expects. State-dict names are the same.

    Attributes:
        call: how each block is called, where no model patch takes it over.
        attention: how all blocks compute attention.
    """

    def __init__(self, config: DiTConfig, operations: Any = nn, **factory: Any):
        super().__init__(config, operations, **factory)
        self.dtype = factory.get("dtype")
        self.call: BlockCall = call_block
        self.attention = HostAttention()
        use_attention(self.blocks, self.attention)
        self._table: tuple[tuple, Tensor] | None = None
        self._cache: StepCache | None = None

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]  # the host calls it by names of its own
        self,
        x: Tensor,
        timestep: Tensor,
        context: Any = None,
        attention_mask: Any = None,
        text: TextContext | None = None,
        control: Any = None,
        transformer_options: dict[str, Any] | None = None,
        **_: Any,
    ) -> Tensor:
        """x (B, 12, T, H, W) at sigma = timestep (B,) -> `noise - x0`, the same shape.

        text: the prompts, as `text_cond` made them for all steps; without it they are made from context
        (B, L, text width) and attention_mask (B, L).
        """
        options = transformer_options or {}
        wrappers = get_all_wrappers(WrappersMP.DIFFUSION_MODEL, options)
        executor = WrapperExecutor.new_class_executor(self._predict, self, wrappers)
        return executor.execute(x, timestep, context, attention_mask, text, options)

    def _predict(
        self,
        x: Tensor,
        sigma: Tensor,
        context: Any,
        attention_mask: Any,
        text: TextContext | None,
        options: dict[str, Any],
    ) -> Tensor:
        if text is None:
            text = self.text_cond(context, attention_mask).cond
        height, width = x.shape[-2:]
        # An area of a conditioning can have odd sides.
        p = self.config.patch_size
        x = comfy.ldm.common_dit.pad_to_patch_size(x, (1, p, p))
        return -self._flow(x, sigma, text, options)[..., :height, :width]

    def text_cond(self, features: Tensor, mask: Tensor) -> comfy.conds.CONDRegular:
        """A prompt for all steps of a run, encoded once from T5 features (b, L, text width) and mask (b, L)."""
        return TextCond(self.encode_text(features, mask.bool()))

    def _flow(self, x: Tensor, sigma: Tensor, text: Any, options: dict[str, Any]) -> Tensor:
        """`z_0 - eps` for x (B, 12, T, H, W) with even sides, and the prompts that `text_cond` made."""
        self._attend_with(options)
        return super().forward(x, sigma, text, self._rotary_of(x), self._runner(x, options))

    def _runner(self, x: Tensor, options: dict[str, Any]) -> BlockRunner:
        """The runner for a forward pass of x: model patches, and a step cache until the run ends."""
        patches = options.get("patches_replace", {}).get("dit", {})
        runner = BlockRunner(_Patched(self.blocks, patches, options, self.call) if patches else self.call)
        plan = plan_of(options)
        if plan is None:
            return runner
        if self._cache is None or self._cache.plan != plan:
            self._cache = StepCache(plan)
        return self._cache.around(keys_of(x, options), options["sigmas"][0].item(), runner)

    @outside  # attention is outside, too, and reads them there
    def _attend_with(self, options: dict[str, Any]) -> None:
        self.attention.options = options

    @outside  # a table that comes and goes would make it compile again
    def _rotary_of(self, x: Tensor) -> Tensor:
        """The rotary table of x, remembered until another shape comes or the run ends."""
        key = (*x.shape[2:], x.device)
        if self._table is None or self._table[0] != key:
            self._table = (key, self.rotary(*x.shape[2:], device=x.device))
        return self._table[1]

    def forget_run(self) -> None:
        """Free what was kept for the steps of a run."""
        if self._cache is not None:
            report(self._cache.passes)
        self._table = self._cache = None
        self.attention.options = {}


class _Patched:
    """Calls blocks, or in their place the model patches that a person has put there.

    Args:
        patches: ("double_block", index of the block) -> a function as `set_model_patch_replace` takes it.
        call: how a block is called by itself, and by its patch.
    """

    def __init__(
        self,
        blocks: nn.ModuleList,
        patches: Mapping[tuple[str, int], Callable[..., dict[str, Tensor]]],
        options: dict[str, Any],
        call: BlockCall,
    ):
        self._patches = {block: patches.get(("double_block", index)) for index, block in enumerate(blocks)}
        self._options, self._call = options, call

    def __call__(
        self, block: nn.Module, x: Tensor, y: Tensor, c: Vectors, rotary: Tensor, text_lengths: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        patch = self._patches[block]
        if patch is None:
            return self._call(block, x, y, c, rotary, text_lengths)

        def original(args: dict[str, Any]) -> dict[str, Tensor]:
            inputs = args["img"], args["txt"], args["vec"], args["rotary"], args["text_lengths"]
            img, txt = self._call(block, *inputs)
            return {"img": img, "txt": txt}

        args = {"img": x, "txt": y, "vec": c, "rotary": rotary, "text_lengths": text_lengths}
        out = patch({**args, "transformer_options": self._options}, {"original_block": original})
        return out["img"], out["txt"]


class TextCond(comfy.conds.CONDRegular):
    """A TextContext among ComfyUI's conditions: repeated to a batch, joined with others of the same length."""

    cond: TextContext

    def process_cond(self, batch_size: int, **_: Any) -> TextCond:
        text, repeat = self.cond, comfy.utils.repeat_to_batch_size
        lengths = (text.lengths * math.ceil(batch_size / len(text.lengths)))[:batch_size]
        return self._copy_with(TextContext(repeat(text.caption, batch_size), repeat(text.tokens, batch_size), lengths))

    def can_concat(self, other: TextCond) -> bool:
        return self.cond.tokens.shape == other.cond.tokens.shape

    def concat(self, others: list[TextCond]) -> Any:
        texts = [self.cond, *(other.cond for other in others)]
        return TextContext(
            caption=torch.cat([text.caption for text in texts]),
            tokens=torch.cat([text.tokens for text in texts]),
            lengths=tuple(length for text in texts for length in text.lengths),
        )

    def size(self) -> list[int]:
        return list(self.cond.tokens.shape)
