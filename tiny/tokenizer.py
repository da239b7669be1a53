"""Makes the tiny model's tokenizer: a T5-style unigram model whose pieces are the captions' words, and letters.

Usage: python -m tiny.tokenizer [folder]
"""

import json
import math
import re
import string
import sys
from collections import Counter
from pathlib import Path

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from mochi.config import TINY_WEIGHTS

from .captions import FILLERS, caption, training_scene

# T5's own numbers: 0 pads, 1 ends, 2 stands for what the pieces cannot spell.
SPECIAL = ("<pad>", "</s>", "<unk>")
_SPACE = "▁"
_LETTER_SCORE = -14.0
"""Lower than any word's, so that a word is spelt only where it is no piece."""


def _pieces(captions: int) -> list[tuple[str, float]]:
    """Pieces with their log-probabilities: words by how often they occur, then every letter, digit and sign."""
    rng = np.random.default_rng(0)
    counts: Counter[str] = Counter()
    for text in (caption(training_scene(rng), rng) for _ in range(captions)):
        counts.update(re.findall(rf"{_SPACE}?[a-z0-9]+|[,.:-]", _SPACE + text.lower().replace(" ", _SPACE)))
    for word in " ".join(FILLERS).split(" "):
        counts[_SPACE + word] += captions // 100
    total = counts.total()
    words = [(piece, math.log(count / total)) for piece, count in sorted(counts.items(), key=lambda c: (-c[1], c[0]))]
    known = {piece for piece, _ in words}
    letters = [_SPACE, *string.ascii_lowercase, *string.digits, *string.punctuation]
    return words + [(letter, _LETTER_SCORE) for letter in letters if letter not in known]


def make_tokenizer(folder: Path, captions: int = 10_000) -> None:
    """Writes tokenizer.json and its configuration, which transformers' AutoTokenizer loads, into a folder.

    Text is folded to lower case. What ASCII cannot spell becomes <unk>; </s> ends every text.
    """
    vocabulary = [(piece, 0.0) for piece in SPECIAL] + _pieces(captions)
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=SPECIAL.index("<unk>")))
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Lowercase(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement=_SPACE, prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(replacement=_SPACE, prepend_scheme="always")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", SPECIAL.index("</s>"))]
    )
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": 512,
        "pad_token": SPECIAL[0],
        "eos_token": SPECIAL[1],
        "unk_token": SPECIAL[2],
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else TINY_WEIGHTS / "t5"
    make_tokenizer(target)
    print(f"tokenizer written to {target}")
