"""Judge the tiny model on prompts it was never trained on: `python -m tiny.evaluate`.

Prints how many of 200 clips show what their prompt says, and draws a contact sheet of eight of them.
"""

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from mochi.config import TINY, TINY_WEIGHTS
from mochi.lora.apply import Loras
from mochi.pipeline import GenerateSettings, load_pipeline

from .captions import held_out_prompts
from .sample import ATTRIBUTES, obeyed, summary

FIRST_SEED = 10_000


def generate(folder: Path, prompts: Sequence[str], loras: Loras = (), **chosen: object) -> Iterator[np.ndarray]:
    """A clip (F, H, W, 3) in [0, 1] for each prompt, from the pipeline itself. Seeds count from FIRST_SEED."""
    pipeline = load_pipeline(folder, dtype=torch.float32, device="cpu")
    pipeline.use_loras(loras)
    for number, prompt in enumerate(prompts):
        settings = GenerateSettings.of(pipeline.config.defaults, prompt=prompt, seed=FIRST_SEED + number, **chosen)
        yield torch.cat(list(pipeline.generate(settings))).numpy()


def contact_sheet(clips: Sequence[np.ndarray], labels: Sequence[str], shown: int = 7, zoom: int = 2) -> Image.Image:
    """A row of frames, evenly spread over the clip, under each label."""
    size, gap, line = clips[0].shape[1] * zoom, 4, 26
    height = line + size + gap
    sheet = Image.new("RGB", (shown * (size + gap) + gap, len(clips) * height + gap), (24, 24, 24))
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(16)
    for row, (clip, label) in enumerate(zip(clips, labels, strict=True)):
        pen.text((gap + 2, row * height + 4), label, fill=(240, 240, 240), font=font)
        for column, index in enumerate(np.linspace(0, len(clip) - 1, shown).round().astype(int)):
            frame = Image.fromarray((clip[index] * 255).round().astype(np.uint8))
            frame = frame.resize((size, size), Image.Resampling.BICUBIC)
            sheet.paste(frame, (gap + column * (size + gap), row * height + line))
    return sheet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model-dir", type=Path, default=TINY_WEIGHTS)
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--steps", type=int, default=TINY.defaults.steps)
    parser.add_argument("--cfg", type=float, default=TINY.defaults.cfg)
    parser.add_argument("--teacache", type=float, default=0.0, help="threshold of the step cache (default: none)")
    parser.add_argument("--seed", type=int, default=2024, help="draws the prompts")
    parser.add_argument("--sheet", type=Path, help="write a PNG of the first eight clips here")
    parser.add_argument("--json", type=Path, help="write the rates here")
    parser.add_argument("--failures", action="store_true", help="list the clips that disobey")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    prompts, scenes = zip(*held_out_prompts(args.prompts, args.seed), strict=True)
    started = time.perf_counter()
    clips = list(generate(args.model_dir, prompts, steps=args.steps, cfg=args.cfg, teacache=args.teacache))
    seconds = (time.perf_counter() - started) / len(clips)
    right = obeyed(clips, scenes)
    cached = f", TeaCache {args.teacache}" if args.teacache else ""
    print(f"{args.prompts} held-out prompts, {args.steps} steps, cfg {args.cfg}{cached}: {summary(right)}")
    print(f"{seconds:.2f} s a clip")
    if args.failures:
        for number in np.flatnonzero(~right.all(1)):
            wrong = [name for name, ok in zip(ATTRIBUTES, right[number], strict=True) if not ok]
            print(f"seed {FIRST_SEED + number}: wrong {', '.join(wrong)}: {prompts[number]}")
    if args.json:
        rates = dict(zip(ATTRIBUTES, right.mean(0).round(4).tolist(), strict=True))
        args.json.write_text(
            json.dumps({"prompts": args.prompts, "steps": args.steps, "cfg": args.cfg, **rates}) + "\n"
        )
    if args.sheet:
        contact_sheet(clips[:8], prompts[:8]).save(args.sheet)
        print(f"contact sheet: {args.sheet}")


if __name__ == "__main__":
    main()
