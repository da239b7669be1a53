"""Judge a LoRA for the tiny model: `python -m tiny.evaluate_concept --lora FILE`.

Prints how many of 50 clips show the new concept (see concept.py) as their prompt says, and how many of 200 prompts
without it are still obeyed, with the LoRA and without.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from mochi.config import TINY, TINY_WEIGHTS
from mochi.lora.apply import Loras, read_loras

from .captions import held_out_prompts
from .concept import HELD_OUT, Described, concept_prompts
from .evaluate import FIRST_SEED, contact_sheet, generate
from .sample import ATTRIBUTES, obeyed, summary


def judged(
    prompts: Sequence[Described], loras: Loras, folder: Path = TINY_WEIGHTS, cfg: float = TINY.defaults.cfg
) -> tuple[list[np.ndarray], np.ndarray]:
    """The clips of some prompts, and which of (shape, colour, direction, background) each shows as it should (B, 4)."""
    texts, scenes = zip(*prompts, strict=True)
    clips = list(generate(folder, texts, loras, cfg=cfg))
    return clips, obeyed(clips, scenes)


def _failures(prompts: Sequence[Described], right: np.ndarray) -> None:
    for number in np.flatnonzero(~right.all(1)).tolist():
        wrong = [name for name, ok in zip(ATTRIBUTES, right[number], strict=True) if not ok]
        print(f"  seed {FIRST_SEED + number}: wrong {', '.join(wrong)}: {prompts[number][0]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lora", type=Path, required=True)
    parser.add_argument("--strength", type=float, default=1.0)
    parser.add_argument("--model-dir", type=Path, default=TINY_WEIGHTS)
    parser.add_argument("--concept", type=int, default=50, help="prompts of the new concept")
    parser.add_argument("--old", type=int, default=200, help="prompts of what the model knew")
    parser.add_argument("--cfg", type=float, default=TINY.defaults.cfg, help="guidance (default: %(default)s)")
    parser.add_argument("--alone", action="store_true", help="only with the LoRA, the model without it is known")
    parser.add_argument("--seed", type=int, default=2024, help="draws the prompts")
    parser.add_argument("--sheet", type=Path, help="write a PNG of eight clips of the concept here")
    parser.add_argument("--json", type=Path, help="write the rates here")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    loras = read_loras([(str(args.lora), args.strength)], TINY.dit)
    rates: dict[str, float] = {}
    new, old = concept_prompts(args.concept, args.seed), held_out_prompts(args.old, args.seed)
    if new:
        clips, right = judged(new, loras, args.model_dir, args.cfg)
        rates["concept"] = float(right.all(1).mean())
        print(f"{len(new)} prompts of the concept: {summary(right)}")
        unseen = np.array([(scene.direction, scene.background) in HELD_OUT for _, scene in new])
        print(
            f"  {unseen.sum()} of them with a direction and background never trained together: {summary(right[unseen])}"
        )
        _failures(new, right)
        if args.sheet:
            contact_sheet(clips[:8], [text for text, _ in new[:8]]).save(args.sheet)
            print(f"contact sheet: {args.sheet}")
    for name, some in {"old": loras, **({} if args.alone else {"without": ()})}.items() if old else ():
        _, right = judged(old, some, args.model_dir, args.cfg)
        rates[name] = float(right.all(1).mean())
        print(f"{len(old)} held-out prompts, {'with' if some else 'without'} the LoRA: {summary(right)}")
        _failures(old, right)
    if args.json:
        args.json.write_text(json.dumps({name: round(rate, 4) for name, rate in rates.items()}) + "\n")


if __name__ == "__main__":
    main()
