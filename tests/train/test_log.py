"""The log of a run that is killed and goes on."""

import json

from mochi.train.log import Log


def lines(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_steps_behind_the_checkpoint_are_forgotten(tmp_path):
    log = Log(tmp_path, 0)
    for step in range(1, 6):
        log.tell(step, {"loss": step / 3, "videos": []})
    log.close()
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 6, "lo')  # killed in the middle of a line
    log = Log(tmp_path, 3)
    log.tell(4, {"loss": float("nan")})
    log.close()
    assert [(line["step"], line["loss"]) for line in lines(tmp_path)] == [
        (1, 0.333333),
        (2, 0.666667),
        (3, 1.0),
        (4, None),
    ]
