"""Texts as they are compared: what looks the same to a reader is the same."""

from unicodedata import normalize

import regex  # which transformers brings: it knows Unicode's properties

_UNSEEN = regex.compile(
    # Accents and points over and under letters, but for those of Japanese, which make another letter; what is not
    # shown, such as a zero-width space or a soft hyphen; and the stroke that makes Arabic words longer.
    r"(?V1)[[\p{Inherited}--[\u3099\u309A]][\p{Hebrew}&&\p{M}]\p{Default_Ignorable_Code_Point}\p{Cf}[\p{Cc}--\s]\u0640]"
)
_LETTER = regex.compile(
    # Of scripts that have blanks between words.
    r"(?V1)[[\p{L}\p{M}]--[\p{Han}\p{Hiragana}\p{Katakana}\u30FC\p{Bopomofo}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]]"
)
_BETWEEN = regex.compile(r"[^\p{L}\p{M}\p{N}]+")


def fold(text: str) -> str:
    """Without capitals, accents, wide and ornamental forms (NFKC), and characters that are not seen."""
    for _ in range(2):  # what is left out can stand between two that become another one
        plain = normalize("NFKD", normalize("NFKC", text).casefold())
        text = normalize("NFKC", _UNSEEN.sub("", plain)).casefold()
    return text


def spaced(text: str) -> str:
    """With one blank wherever there is white space."""
    return " ".join(text.split())


def bare(text: str) -> str:
    """Letters and digits alone, with one blank between words."""
    return _BETWEEN.sub(" ", text).strip()


def stands_alone(phrase: str, text: str) -> bool:
    """Whether a text has a phrase that is no part of a longer word or number.

    In scripts that have no blanks between words, such as Chinese, it may be anywhere.
    """
    start = text.find(phrase)
    while start >= 0:
        end = start + len(phrase)
        if not _joined(text[start - 1 : start + 1] if start else "") and not _joined(text[end - 1 : end + 1]):
            return True
        start = text.find(phrase, start + 1)
    return False


def _joined(pair: str) -> bool:
    """Whether two neighbouring characters belong to one word, or to one number."""
    return len(pair) == 2 and (all(map(_LETTER.match, pair)) or all(map(str.isdecimal, pair)))
