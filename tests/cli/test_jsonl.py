"""`--jsonl`: many videos in one run, all of them checked before the first starts; bad lines do not end the others."""

import json
from pathlib import Path

import pytest

from mochi import pipeline
from mochi.batch.job import Job
from mochi.batch.record import Recipe
from mochi.cli.jobs import missing, read_jsonl
from mochi.config import PREVIEW, TINY
from mochi.errors import MochiError

FINE = '{"prompt": "fine"}'


def read(text: str | bytes) -> tuple[list[Job], dict[int, str]]:
    """The jobs of a file, and what is said of its other lines."""
    Path("list.jsonl").write_bytes(text if isinstance(text, bytes) else text.encode())
    jobs, wrong = read_jsonl(Path("list.jsonl"), {}, TINY.defaults)
    return jobs, {line: str(error) for line, error in wrong.items()}


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
        ("[" * 100_000, "not JSON"),
        ('{"prompt": "x", "seed": ' + "1" * 5000 + "}", "not JSON"),
        ('{"prompt": "x", "fps": 1' + "0" * 400 + "}", "fps is 1"),
        ('{"prompt": "x", "cfg": NaN}', "cfg is nan"),
        ('{"prompt": "x", "teacache": 1e999}', "teacache is inf"),
        ('{"prompt": "x", "defaults": 1}', "unknown setting defaults"),
        ('{"prompt": "x", "cls": 1}', "unknown setting cls"),
        ('{"prompt": "a \\ud83d circle"}', "prompt has '\\ud83d' as character 3: half of a character"),
        ('{"prompt": "x", "negative": "\\udc00"}', "negative has '\\udc00' as character 1"),
        ('{"prompt": "x", "output": "a\\u0000b.mp4"}', "no file name can hold"),
        ('{"prompt": "x", "output": "a\\ud83d.gif"}', "no file name can hold"),
        ('{"prompt": "x", "output": "clip"}', "must end in .mp4"),
        ('{"prompt": "x", "output": "' + "n" * 252 + '.mp4"}', "256 bytes long, and 255 are the most"),
        ('{"prompt": "x", "output": "' + "n" * 251 + '.mp4"}', "256 bytes long"),  # that of the record
        ('{"prompt": "x", "output": "list.jsonl/clip.mp4"}', "is no folder"),
        ('{"prompt": "x", "output": "x.gif", "fps": 60}', "fps is 60, but gif can have 50 at most"),
        ('{"prompt": "x", "width": 16400}', "width is 16400, but a side of a mp4 can have 1 to 16384 pixels"),
        ('{"prompt": "x", "width": 70000, "output": "x.webm"}', "width is 70000"),
    ],
)
def test_bad_line_is_named_before_the_first_starts(here: Path, line: str, message: str) -> None:
    jobs, wrong = read(f"{FINE}\n{line}\n\n{FINE}")
    assert [job.line for job in jobs] == [1, 4] and wrong.keys() == {2}
    assert message in wrong[2]
    assert names(here) == ["list.jsonl"]


def test_bad_lines_do_not_end_the_others(run, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that cannot be read, and one that fails as it is made."""
    denoise = pipeline.Pipeline.denoise

    def fails_on_green(self: pipeline.Pipeline, settings: pipeline.GenerateSettings, *rest: object) -> object:
        if settings.prompt == "green":
            raise MochiError("ran out of the range of numbers")
        return denoise(self, settings, *rest)

    monkeypatch.setattr(pipeline.Pipeline, "denoise", fails_on_green)
    prompts = ['"red"', '"a \\ud83d"', '"green"', '"caf\xe9"', '"blue"']
    lines = [f'{{"prompt": {prompt}, "frames": 1, "output": "{i}.gif"}}' for i, prompt in enumerate(prompts, 1)]
    Path("list.jsonl").write_bytes("\n".join(lines).encode("latin-1"))
    code, out, err = run("--jsonl=list.jsonl")
    assert code == 2 and out.split() == ["1.gif", "5.gif"]
    assert "list.jsonl, line 2: prompt has" in err and "line 4: character 16 is not UTF-8" in err
    assert "list.jsonl, line 3: ran out" in err and err.endswith("lines 2, 3, 4 were not made\n")
    assert names(here) == ["1.gif", "1.json", "5.gif", "5.json", "list.jsonl"]


def test_nothing_is_loaded_where_no_line_is_right(run, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "load_pipeline", lambda *_: pytest.fail("weights were read"))
    Path("list.jsonl").write_text("{\n\n[]")
    code, _, err = run("--jsonl=list.jsonl")
    assert code == 2 and "line 1: not JSON" in err and "line 3: not a JSON object" in err
    assert names(here) == ["list.jsonl"]


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"]
)
def test_encodings(here: Path, encoding: str, ending: str) -> None:
    """With and without a byte order mark, as editors and shells write them."""
    texts = ["a red circle", "caf\xe9, \u5b57", "\U0001f388"]
    lines = (json.dumps({"prompt": text}, ensure_ascii=False) for text in texts)
    jobs, wrong = read("".join(line + ending for line in lines).encode(encoding))
    assert [job.settings.prompt for job in jobs] == texts and not wrong


def test_a_file_in_no_such_encoding(run, here: Path) -> None:
    Path("list.jsonl").write_bytes("\ufeff{}".encode("utf-16-le") + b"x")
    code, _, err = run("--jsonl=list.jsonl")
    assert code == 2 and "list.jsonl: cannot be read" in err and err.count("\n") == 1


def test_outputs_of_a_run_do_not_clash(here: Path) -> None:
    jobs, wrong = read('{"prompt": "a", "output": "x.mp4"}\n{"prompt": "b", "output": "x.webm"}\n' + FINE)
    assert len(jobs) == 2 and "x.json: this run would write over it" in wrong[2]
    Path("list.json").write_text('{"prompt": "a", "output": "list.mp4"}')
    jobs, wrong = read_jsonl(Path("list.json"), {}, TINY.defaults)
    assert not jobs and "list.json: this run would write over it" in str(wrong[1])
    Path("list.json").write_text("\n")
    with pytest.raises(MochiError, match="nothing in it"):
        read_jsonl(Path("list.json"), {}, TINY.defaults)
    (here / "taken.json").mkdir()
    assert "folder of that name" in read('{"prompt": "a", "output": "taken.mp4"}')[1][1]


def test_whether_a_seed_is_drawn(here: Path) -> None:
    lines = '{"prompt": "a"}\n{"prompt": "a", "seed": 3}\n{"prompt": "a", "seed": null}\n'
    assert [job.seed_drawn for job in read(lines)[0]] == [True, False, True]
    assert [job.seed_drawn for job in read_jsonl(here / "list.jsonl", {"seed": 1}, TINY.defaults)[0]] == [False] * 3


def test_what_is_missing(run, here: Path, model_dir: Path) -> None:
    """A folder of frames that is there is no error, unless it is not what is asked for."""
    lines = [{"prompt": "red", "output": f"{name}.png", "frames": 1} for name in "abc"]
    lines.append({"prompt": "red", "output": "d.gif", "frames": 1})
    Path("list.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert run("--jsonl=list.jsonl", "--variant=preview")[0] == 0
    seed = json.loads(Path("d.json").read_text())["seed"]
    (here / "b" / "frame_00001.png").write_bytes(b"")
    (here / "c" / "frame_00001.png").unlink()
    (here / "d.gif").unlink()
    sizes = {"width": 32, "height": 32, "steps": 3}
    jobs, wrong = read_jsonl(Path("list.jsonl"), sizes, PREVIEW.defaults, check=lambda _: None)
    assert len(jobs) == 4 and not wrong
    jobs, wrong = missing(jobs, Recipe(str(model_dir), "preview"))
    assert [str(job.output) for job in jobs] == ["c.png", "d.gif"] and jobs[1].settings.seed == seed
    assert wrong.keys() == {2} and "already a folder of that name" in str(wrong[2])
