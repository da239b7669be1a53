"""Names of options: hyphens and underscores, shortened names, and those of Genmo's own command lines."""

import argparse
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mochi.cli.main import COMMANDS, main, parser
from mochi.cli.names import in_our_name

PUBLISHED = (  # the options of demos/cli.py and, with fewer of them, of demos/gradio_ui.py
    *("--prompt=a", "--sweep-file=a", "--negative_prompt=a", "--width=32", "--height=32", "--num_frames=7", "--seed=1"),
    *("--cfg_scale=4.5", "--num_steps=3", "--model_dir=a", "--lora_path=a", "--cpu_offload", "--out_dir=a"),
    *("--threshold-noise=0.1", "--linear-steps=2"),
)


def commands() -> dict[str, argparse.ArgumentParser]:
    return {name: command(name) for name in COMMANDS if name != "ui"}  # whose parser starts the page


def command(name: str) -> argparse.ArgumentParser:
    (found,) = (action for action in parser(name)._actions if isinstance(action, argparse._SubParsersAction))
    return found.choices[name]


def options() -> Iterator[tuple[str, dict[str, str]]]:
    """Every long option of every command, and where the values of that command's options go."""
    for command in commands().values():
        dests = {name: action.dest for name, action in command._option_string_actions.items()}
        yield from ((name, dests) for name in dests if name.startswith("--"))


@given(st.data())
def test_underscores_and_hyphens_are_alike(data: st.DataObject) -> None:
    option, dests = data.draw(st.sampled_from(list(options())))
    written = "--" + "".join(data.draw(st.sampled_from("-_")) if sign == "-" else sign for sign in option[2:])
    assert in_our_name(written, dests) == option
    value = data.draw(st.text("-_=a "))
    assert in_our_name(f"{written}={value}", dests) == f"{option}={value}"


@given(st.data())
def test_what_names_no_option_stays(data: st.DataObject) -> None:
    _, dests = data.draw(st.sampled_from(list(options())))
    value = data.draw(st.text("-_ab =", max_size=12))
    for text in (f"-{value.lstrip('-')}", value.lstrip("-"), f"--no such_option{value}", f"--zz_{value}"):
        assert in_our_name(text, dests) == text


def test_shortened_names_are_those_that_there_were() -> None:
    """A shortened name that is clear among ours means the same with the published ones beside; an unclear one stays."""
    for option, dests in options():
        for end in range(3, len(option) + 1):
            short = option[:end]
            meant = {dests[name] for name in dests if name.startswith(short)}
            found = in_our_name(f"{short}=1", dests).removesuffix("=1")
            assert dests.get(found) == dests[option] if short == option or len(meant) == 1 else found == short


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("--neg=x", ("negative", "x")),
        ("--num_f=7", ("frames", 7)),
        ("--num-st=7", ("steps", 7)),
        ("--out=a.mp4", ("output", "a.mp4")),
        ("--sweep=a", ("jsonl", "a")),
        ("--negative_prompt=--a_b-c", ("negative", "--a_b-c")),
        ("--lora_p=a_b=0.5", ("lora", ["a_b=0.5"])),
    ],
)
def test_what_is_meant(written: str, meant: tuple[str, object]) -> None:
    found = vars(parser("generate").parse_args(["generate", written]))[meant[0]]
    assert found == meant[1] or str(found) == meant[1]


@pytest.mark.parametrize(("short", "said"), [("--num=7", "unrecognized arguments: --num=7"), ("--m=a", "ambiguous")])
def test_what_could_be_several_is_refused(short: str, said: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        parser("generate").parse_args(["generate", short])
    assert said in capsys.readouterr().err


def test_published_options_and_ours_are_the_same() -> None:
    """Each alone, and all in one line; values keep their signs."""
    line = ["generate", *PUBLISHED]
    found = vars(parser("generate").parse_args(line))
    ours = (
        "generate --prompt=a --jsonl=a --negative=a --width=32 --height=32 --frames=7 --seed=1 --cfg=4.5 --steps=3 "
        "--model-dir=a --lora=a --cpu-offload --folder=a --threshold-noise=0.1 --linear-steps=2"
    )
    assert found == vars(parser("generate").parse_args(ours.split()))
    for text in ("--negative_prompt", "a_b--c", "-1_000"):
        behind = vars(parser("generate").parse_args(["generate", "--seed=1", "--", text]))
        assert behind["prompt"] == text


def test_without_a_command_it_is_generate(capsys: pytest.CaptureFixture) -> None:
    assert main(["--model_dir", "absent", "--prompt", "red"]) == 2
    assert "absent: there is no such model directory" in capsys.readouterr().err
    for arguments in ([], ["--help"], ["-h"]):
        with pytest.raises(SystemExit):
            main(arguments)
    assert capsys.readouterr().out.count("COMMAND ...") == 2


def test_help_names_each_option_once(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        main(["generate", "--help"])
    shown = capsys.readouterr().out
    assert shown.count("--num_frames") == 1 and "--model_dir" not in shown and "--num-frames" not in shown
