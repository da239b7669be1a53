"""Lists of words: what is found in a prompt, what is not, and what is wrong with a list."""

import re
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mochi.crossing import decode, encode
from mochi.errors import MochiError
from mochi.safety.fold import fold
from mochi.safety.words import WordList


def found(entry: str, prompt: str) -> bool:
    return WordList("list", entry).build().check_prompt(prompt) is not None


FOUND = {
    "nude": [
        "a nude",
        "Nude!",
        "NUDE",
        "ｎｕｄｅ",
        "núdè",
        "nu\u200bde",
        "n\u00adude",
        "nude2",
        "semi-nude",
        "nude_art",
        "𝓷𝓾𝓭𝓮",
        "nude裸",
    ],
    "straße": ["STRASSE", "strasse"],
    "ﬁre": ["fire"],
    "İstanbul": ["istanbul"],
    "裸体": ["一个裸体的人", "裸体", "裸\u200b体"],
    "ヌード": ["彼のヌード写真", "ﾇｰﾄﾞ"],
    "เปลือย": ["ภาพเปลือยกาย"],
    "голый": ["ГОЛЫЙ человек"],
    "كلمة": ["كَلِمَة", "كلـــمة"],
    "누드": ["누드 사진"],
    "hot dog": ["a hot  dog", "hot\ndog", "Hot-Dog.", "hot, dog"],
    "c++": ["in C++ code"],
    "18+": ["an 18+ film"],
    "69": ["69 people", "room69b"],
    "/kill(s|ed)? (him|her)/": ["Kills her", "ＫＩＬＬ him"],
    "/\\bnude?\\b/": ["a núde"],
    "/é/": ["café"],
}
NOT_FOUND = {
    "rape": ["grape", "drapes", "rapeseed", "a grapefruit"],
    "nude": ["denuded", "nudes", "dénudé"],
    "गरम": ["गरमी"],  # a vowel sign goes on with the word
    "hot dog": ["hot", "shot dog", "hot dogs", "dog hot"],
    "c++": ["c", "a c"],
    "69": ["1969", "690"],
    "か": ["が"],
    "голый": ["голыйx"],
    "/^nude$/": ["a nude"],
}


@pytest.mark.parametrize("entry", FOUND)
def test_found(entry: str) -> None:
    assert [prompt for prompt in FOUND[entry] if not found(entry, prompt)] == []


@pytest.mark.parametrize("entry", NOT_FOUND)
def test_not_found(entry: str) -> None:
    assert [prompt for prompt in NOT_FOUND[entry] if found(entry, prompt)] == []


def test_the_reason_names_the_line_and_not_the_list() -> None:
    check = WordList("list", "# a list\n\nnaked\n  #x\n/bl(oo)+d/\n").build()
    finding = check.check_prompt("NÁKED")
    assert finding is not None and finding.reason == "'naked' (line 3)" and finding.score is None
    finding = check.check_prompt("Bloood and blOOood")
    assert finding is not None and finding.reason == "'blOOood' (line 5)"
    assert check.check_prompt("list # x") is None and check.check_prompt("") is None


BAD = {
    "list, line 2: /a[/ is no regular expression: ": "ok\n/a[/",
    "list, line 1: /x*/ is found in an empty text": "/x*/",
    "list: there is nothing in the list": "# nothing\n\n",
    "list, line 3: '\\u200b' has no character that can be seen": "a\nb\n\u200b",
}


@pytest.mark.parametrize("message", BAD)
def test_a_bad_list(message: str) -> None:
    with pytest.raises(MochiError, match=re.escape(message)):
        WordList("list", BAD[message])


def test_a_bad_file(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    with pytest.raises(MochiError, match=r"words\.txt: the list of words cannot be read \(No such file"):
        WordList.read(path)
    path.write_bytes("one\ntwo\nl\xe4rm\n".encode("latin-1"))
    with pytest.raises(MochiError, match=re.escape(f"{path}, line 3: not UTF-8")):
        WordList.read(path)
    path.write_text("")
    with pytest.raises(MochiError, match="there is nothing in the list"):
        WordList.read(path)


def test_a_file_of_another_system(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_bytes(b"\xef\xbb\xbfnude\r\n# x\r\nlast")
    words = WordList.read(path)
    assert words.build().check_prompt("nude") and words.build().check_prompt("the last")
    assert decode(encode(words)) == words


def test_an_expression_that_never_ends_is_stopped() -> None:
    check = WordList("list", "/(a|a|aa)+$/").build()
    started = time.monotonic()
    with pytest.raises(MochiError, match=r"list, line 1: the expression takes more than 1 s .* nothing is made"):
        check.check_prompt("a" * 60 + "b")
    assert time.monotonic() - started < 5


def test_a_long_list_is_quick() -> None:
    check = WordList("list", "\n".join(f"word{number}x" for number in range(10000))).build()
    started = time.monotonic()
    assert check.check_prompt("a red circle moves left " * 40) is None
    assert time.monotonic() - started < 1


@given(st.text())
def test_folded_once_is_folded_twice(text: str) -> None:
    assert fold(fold(text)) == fold(text)


LETTERS = st.text(st.characters(categories=("Ll",), max_codepoint=0x17F), min_size=1, max_size=8)


@given(LETTERS, LETTERS, st.sampled_from(["", " ", "-", ", "]))
def test_a_word_is_found_where_it_stands_alone(word: str, other: str, between: str) -> None:
    """Against plain splitting."""
    prompt = f"{other}{between}{word}".upper()
    apart = re.split(r"[^\w]+", fold(prompt))
    assert found(word, prompt) == (fold(word) in apart)


def test_an_expression_finds_letters_of_two_parts() -> None:
    check = WordList("list", "/Ému/").build()
    assert check.check_prompt("an E\u0301mu runs") and check.check_prompt("an Ému runs")


def test_flags_behind_an_expression_are_no_phrase() -> None:
    with pytest.raises(MochiError, match=r"list, line 2: '/nude/i' begins like an expression"):
        WordList("list", "cat\n/nude/i")
