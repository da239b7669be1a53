"""What safety checks cost, in time of the processor: `python -m benchmarks.safety [--json]`.

A list of 1,000 words and one prompt; a frame through the toy classifier of the tests, and through a ViT-base of 224 x
224 with random weights, the size of the usual ones; and what every 8th frame adds to a video of the tiny model.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from benchmarks.report import Figures, add_option, report
from benchmarks.share import Video
from mochi.safety.images import EVERY, Classifier, ImageCheck
from mochi.safety.words import WordList
from tests.toy_classifier import LABELS, write_toy

PROMPT = "A red fox trots through a snowy birch forest at sunrise, and powder snow flies up from its paws. " * 4
REPEATS = 7


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_option(parser)
    report("safety checks", figures(), parser.parse_args().json)


def figures() -> Figures:
    with TemporaryDirectory() as folder:
        video = Video(Path(folder))
        made = median(video.make)
        frames = video.pipeline.config.defaults.frames
        seen = len({*range(0, frames, EVERY), frames - 1})
        words = WordList("words", "\n".join(f"word{number}" for number in range(1000))).build()
        checked = {"words": {"CPU ms a prompt": 1e3 * median(lambda: words.check_prompt(PROMPT))}}
        for name, write in {"toy": write_toy, "ViT-base": write_base}.items():
            check = Classifier(str(write(Path(folder) / name))).build()
            checked[name] = {
                **ms_a_frame(check),
                f"% of a tiny video ({frames} frames, {seen} seen)": 100 * seconds(check, seen, 64, 64) / made,
            }
        return checked | {"tiny video": {"CPU s": made}}


def write_base(folder: Path) -> Path:
    """A ViT-base with random weights."""
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

    numbers = {name: number for number, name in LABELS.items()}
    ViTForImageClassification(ViTConfig(id2label=LABELS, label2id=numbers)).save_pretrained(folder)
    ViTImageProcessor().save_pretrained(folder)
    return folder


def ms_a_frame(check: ImageCheck) -> dict[str, float]:
    sizes = {"64 x 64": (64, 64), "848 x 480": (480, 848)}
    return {f"CPU ms a frame of {name}": 1e3 * seconds(check, 8, *size) / 8 for name, size in sizes.items()}


def seconds(check: ImageCheck, frames: int, height: int, width: int) -> float:
    """To look at frames that come one by one, as from a decoder."""
    pictures = torch.randint(0, 256, (frames, height, width, 3), dtype=torch.uint8).split(1)
    return median(lambda: [check._scores(picture) for picture in pictures])


def median(work: Callable[[], object]) -> float:
    """Seconds of the processor, which other programs hardly change, after one run to warm up."""
    work()
    taken = []
    for _ in range(REPEATS):
        started = time.process_time()
        work()
        taken.append(time.process_time() - started)
    return statistics.median(taken)


if __name__ == "__main__":
    main()
