"""`--jsonl`: many videos in one run, all of them checked before the first starts."""

import json
from pathlib import Path

import pytest


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_jsonl(run, here: Path) -> None:
    lines = [{"prompt": "red"}, {"prompt": "blue", "seed": 3, "frames": 1, "cfg": [1, 1, 2], "output": "blue.gif"}]
    Path("list.jsonl").write_text(json.dumps(lines[0]) + "\n\n" + json.dumps(lines[1]) + "\n")
    assert run("--jsonl=list.jsonl", "--seed=1")[0] == 0
    assert names(here) == ["blue.gif", "blue.json", "list.jsonl", "list_0001.json", "list_0001.mp4"]
    first, second = (json.loads(Path(f"{name}.json").read_text()) for name in ("list_0001", "blue"))
    assert (first["prompt"], first["seed"], first["frames"]) == ("red", 1, 7)
    assert (second["prompt"], second["seed"], second["frames"], second["cfg"]) == ("blue", 3, 1, [1, 1, 2])


def test_a_record_is_a_line(run, here: Path) -> None:
    assert run("red", "--output=a.png")[0] == 0
    record = json.loads(Path("a.json").read_text()) | {"output": "b.png"}
    Path("again.jsonl").write_text(json.dumps(record))
    assert run("--jsonl=again.jsonl")[0] == 0
    assert (here / "a" / "frame_00004.png").read_bytes() == (here / "b" / "frame_00004.png").read_bytes()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"prompt": "x", "stepz": 3}', "unknown setting stepz; there are prompt"),
        ('{"steps": 3}', "a prompt is missing"),
        ('{"prompt": 3}', "prompt is 3, but must be a text"),
        ('{"prompt": "x", "steps": 3.5}', r"steps is 3.5, but must be a whole number"),
        ('{"prompt": "x", "steps": true}', "steps is True"),
        ('{"prompt": "x", "cfg": "4"}', "cfg is '4'"),
        ('{"prompt": "x", "cfg": [1, 2]}', "cfg lists 2 values"),
        ('{"prompt": "x", "fps": "fast"}', "fps is 'fast'"),
        ('{"prompt": "x", "frames": 26}', "nearest is 25"),
        ('{"prompt": "x", "output": 3}', "output is 3"),
        ("[1]", "not a JSON object"),
        ("{", "not JSON"),
    ],
)
def test_bad_line_is_named_before_the_first_starts(run, here: Path, line: str, message: str) -> None:
    Path("list.jsonl").write_text('{"prompt": "fine"}\n' + line)
    code, _, err = run("--jsonl=list.jsonl")
    assert code == 2 and "list.jsonl, line 2: " in err and message in err
    assert names(here) == ["list.jsonl"]


def test_outputs_of_a_run_do_not_clash(run, here: Path) -> None:
    Path("list.jsonl").write_text('{"prompt": "a", "output": "x.mp4"}\n{"prompt": "b", "output": "x.webm"}')
    code, _, err = run("--jsonl=list.jsonl")
    assert code == 2 and "x.json" in err
    Path("list.json").write_text('{"prompt": "a", "output": "list.mp4"}')
    code, _, err = run("--jsonl=list.json")
    assert code == 2 and "list.json" in err
    Path("list.json").write_text("\n")
    assert "nothing in it" in run("--jsonl=list.json")[2]
