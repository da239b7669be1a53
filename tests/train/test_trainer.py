"""A run of the trainer on the tiny model: what it leaves, how it goes on, and what it says of bad input."""

import errno
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from mochi.config import TINY_WEIGHTS
from mochi.errors import Cancelled, MochiError
from mochi.lora import read_lora
from mochi.train.inputs import keep_prompts
from mochi.train.job import Samples
from mochi.train.looks import Looks
from mochi.train.network import Network
from mochi.train.ranks import Ranks
from mochi.train.settings import Rank
from mochi.train.trainer import train
from tests.train.helpers import SETTINGS, Heard, difference, job_for, write_clips


@pytest.fixture(scope="module")
def ranks():
    return Ranks.join("cpu")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_clips(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def whole(data, ranks, tmp_path_factory):
    """A run that nothing interrupts: its file, and what was heard of it."""
    heard, output = Heard(), tmp_path_factory.mktemp("whole") / "style.safetensors"
    samples = Samples(every=4, hold_out=1, count=1, steps=2, cfg=2.0, frames=13)
    return train(job_for(data, output, samples), ranks, heard), heard


def test_what_a_run_leaves(whole):
    output, _ = whole
    folder = output.with_suffix(".training")
    assert read_lora(output).patches.keys() >= {"blocks.0.attn.qkv_x.weight", "blocks.5.attn.proj_x.weight"}
    assert {path.name for path in folder.glob("[!.]*") if path.is_file()} == {
        "checkpoint.safetensors",
        "clips.png",
        "log.jsonl",
        "step-000004.safetensors",
        "step-000004-1.mp4",
        "step-000008-1.mp4",
    }
    with safe_open(output, "pt") as file:
        training = json.loads(file.metadata()["training"])
    assert training["lr"] == 1e-2 and training["attention"] == {"rank": 2, "alpha": 4.0}
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, 9))
    assert [line["held-out loss"] > 0 for line in lines if "held-out loss" in line] == [True, True]
    assert any(name.startswith("loss at 0.") for line in lines for name in line)


def test_what_is_heard_of_a_run(whole):
    _, heard = whole
    assert [step.step for step in heard.steps] == list(range(1, 9))
    assert all(step.loss > 0 and step.seconds > 0 and step.clips for step in heard.steps)
    assert heard.steps[-1].left == 0 < heard.steps[3].left
    assert [look.step for look in heard.looks] == [4, 8]
    assert all(look.videos[0].stat().st_size > 500 and look.prompts for look in heard.looks)
    assert any("2 clips to train on, 1 held out" in text for text in heard.texts)


def test_a_cancelled_run_goes_on_as_if_nothing_had_happened(data, ranks, tmp_path):
    once = train(job_for(data, tmp_path / "once.safetensors"), ranks, Heard())
    job, first = job_for(data, tmp_path / "twice.safetensors"), Heard(ends_after=5)
    with pytest.raises(Cancelled, match="after step 5 of 8; the same again goes on"):
        train(job, ranks, first)
    assert not job.output.exists()
    second = Heard()
    train(job, ranks, second)
    assert [step.step for step in (*first.steps, *second.steps)] == list(range(1, 9))
    assert any("going on from step 5" in text for text in second.texts)
    assert difference(job.output, once) <= 1e-6


def test_a_finished_run_can_be_made_longer(data, ranks, tmp_path):
    job = job_for(data, tmp_path / "a.safetensors", steps=3)
    train(job, ranks, Heard())
    longer = Heard()
    train(replace(job, settings=replace(job.settings, steps=5)), ranks, longer)
    assert [step.step for step in longer.steps] == [4, 5]


def test_a_run_of_other_settings_is_not_gone_on_with(data, ranks, tmp_path):
    job = job_for(data, tmp_path / "a.safetensors", steps=2)
    train(job, ranks, Heard())
    other = replace(job, settings=replace(job.settings, lr=0.5, attention=Rank(3, 3.0)))
    with pytest.raises(MochiError, match=r"lr was 0.01 and is 0.5; attention rank was 2 and is 3.*restart"):
        train(other, ranks, Heard())
    train(replace(other, restart=True), ranks, heard := Heard())
    assert heard.steps[0].step == 1


def test_a_run_on_other_weights_is_not_gone_on_with(data, ranks, tmp_path):
    """Also where their file has the same name and size."""
    for name in ("one", "other"):
        shutil.copytree(TINY_WEIGHTS, tmp_path / name)
    dit = tmp_path / "other" / "dit.safetensors"
    with safe_open(dit, "pt") as file:
        tensors, metadata = {name: file.get_tensor(name).clone() for name in file.keys()}, file.metadata()  # noqa: SIM118
    tensors["blocks.0.attn.qkv_x.weight"] += 0.01
    save_file(tensors, dit, metadata)
    assert dit.stat().st_size == (tmp_path / "one" / "dit.safetensors").stat().st_size
    job = replace(job_for(data, tmp_path / "a.safetensors", steps=2), model=tmp_path / "one")
    train(job, ranks, Heard())
    with pytest.raises(MochiError, match=r"model was dit.safetensors \(weights .*and is dit.safetensors \(weights"):
        train(replace(job, model=tmp_path / "other"), ranks, Heard())


def test_a_lora_that_is_there_is_replaced_only_on_demand(data, ranks, tmp_path):
    job = job_for(data, tmp_path / "a.safetensors", steps=2)
    job.output.write_bytes(b"of somebody else")
    with pytest.raises(MochiError, match=r"a.safetensors: there is already a LoRA of that name"):
        train(job, ranks, Heard())
    assert job.output.read_bytes() == b"of somebody else"
    train(replace(job, restart=True), ranks, Heard())
    assert read_lora(job.output).patches


def test_a_cancel_of_the_last_look_keeps_the_lora(data, ranks, tmp_path, monkeypatch):
    def cancelled(looks, step):
        raise Cancelled("cancelled after step 3 of 64")

    monkeypatch.setattr(Looks, "look", cancelled)
    job = job_for(data, tmp_path / "a.safetensors", Samples(every=4, count=1))
    with pytest.raises(Cancelled, match="after step 4 of 8; the same again goes on"):
        train(job, ranks, Heard())
    assert not job.output.exists()
    with pytest.raises(Cancelled, match="while sample clips were made; the LoRA of all 8 steps is there"):
        train(job, ranks, Heard())
    assert read_lora(job.output).patches


def test_losses_by_level_are_told_once(data, ranks, tmp_path):
    """Those of a look are not told again by a run that goes on from it."""
    job = job_for(data, tmp_path / "a.safetensors", Samples(every=4, count=0))
    with pytest.raises(Cancelled):
        train(job, ranks, Heard(ends_after=4))
    with safe_open(job.output.with_suffix(".training") / "checkpoint.safetensors", "pt") as file:
        run = json.loads(file.metadata()["run"])
    assert run["step"] == 4 and not any(map(any, run["told"]))


def test_data_that_have_changed_are_told(ranks, tmp_path):
    data = write_clips(tmp_path / "clips", 2)
    job = job_for(data, tmp_path / "a.safetensors", steps=2)
    train(job, ranks, Heard())
    (data / "0.txt").write_text("a blue star moves up on a black background")
    with pytest.raises(MochiError, match="the clips, their captions, sizes, lengths or windows have changed"):
        train(job, ranks, Heard())


def test_a_checkpoint_that_is_none(data, ranks, tmp_path):
    job = job_for(data, tmp_path / "a.safetensors")
    folder = tmp_path / "a.training"
    folder.mkdir()
    (folder / "checkpoint.safetensors").write_bytes(b"nothing of the kind")
    with pytest.raises(MochiError, match=r"checkpoint.safetensors: not a checkpoint of a training run"):
        train(job, ranks, Heard())


def test_a_run_begins_with_a_lora(whole, data, ranks, tmp_path):
    job = job_for(data, tmp_path / "a.safetensors", steps=1, lr=1e-12, weight_decay=0.0, ema=0.0)
    train(replace(job, start=whole[0]), ranks, Heard())
    assert difference(job.output, whole[0]) < 1e-6


def test_a_loss_that_is_no_number_ends_the_run(data, ranks, tmp_path, monkeypatch):
    real, calls = Network.loss, []

    def loss(network, batch):
        calls.append(batch)
        return real(network, batch) * (float("nan") if len(calls) == 5 else 1.0)

    monkeypatch.setattr(Network, "loss", loss)
    job = job_for(data, tmp_path / "a.safetensors")
    with pytest.raises(MochiError, match=r"loss is nan in step 5, on \d.mp4.*last checkpoint is kept"):
        train(job, ranks, Heard())
    monkeypatch.undo()
    heard = Heard()
    train(job, ranks, heard)  # from the checkpoint of step 3
    assert heard.steps[0].step == 4


def test_a_full_disk_leaves_the_last_checkpoint(data, ranks, tmp_path, monkeypatch):
    job = job_for(data, tmp_path / "a.safetensors")

    def fill_the_disk(step):
        if step.step == 4:
            monkeypatch.setattr(Path, "write_bytes", _no_room)

    with pytest.raises(MochiError, match=r"the checkpoint could not be written: the disk is full"):
        train(job, ranks, Heard(on_step=fill_the_disk))
    monkeypatch.undo()
    assert not [*(tmp_path / "a.training").glob("*.part")]
    heard = Heard()
    train(job, ranks, heard)
    assert heard.steps[0].step == 4


def _no_room(path, data):
    with path.open("wb") as file:
        file.write(data[: len(data) // 2])
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"data": "nowhere"}, "nowhere"),
        ({"sizes": ((100, 64),)}, "100"),
        ({"frames": (24,)}, "24"),
        ({"samples": Samples(hold_out=3, count=0)}, "hold_out is 3, but there are 3 clips"),
        ({"samples": Samples(prompts=("a star",), width=65)}, "65"),
    ],
)
def test_settings_that_cannot_be(data, ranks, tmp_path, change, words):
    job = replace(job_for(data, tmp_path / "a.safetensors"), **change)
    job = replace(job, data=tmp_path / job.data)
    with pytest.raises(MochiError, match=words):
        train(job, ranks, Heard())
    assert not job.output.exists()


def test_an_output_that_cannot_be(data, ranks, tmp_path):
    with pytest.raises(MochiError, match=r"must end in .safetensors"):
        train(job_for(data, tmp_path / "a.pt"), ranks, Heard())
    (tmp_path / "file").touch()
    with pytest.raises(MochiError, match=r"cannot be written, because .*file is no folder"):
        train(job_for(data, tmp_path / "file" / "a.safetensors"), ranks, Heard())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"steps": 0}, "steps is 0, but must be at least 1"),
        ({"lr": -1.0}, "lr is -1.0"),
        ({"lr": float("nan")}, "lr is nan"),
        ({"dropout": 1.0}, "dropout is 1.0, but must be from 0 to below 1"),
        ({"attention": Rank(0, 1.0)}, "nothing to train"),
        ({"levels": "cosine"}, "must be one of uniform, logit-normal"),
    ],
)
def test_numbers_that_cannot_be(change, words):
    with pytest.raises(MochiError, match=words):
        replace(SETTINGS, **change)


def test_sampling_leaves_the_weights_as_they_were(data, ranks, tmp_path):
    """Looks take the averaged weights, and training goes on with its own."""
    quiet = train(job_for(data, tmp_path / "quiet.safetensors", steps=4), ranks, Heard())
    samples = Samples(every=1, count=1, steps=1, cfg=1.0, frames=7, hold_out=0)
    looking = train(job_for(data, tmp_path / "looking.safetensors", samples, steps=4), ranks, Heard())
    assert torch.equal(*(torch.tensor(difference(path, quiet)) for path in (looking, quiet)))


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("a blue star moves up on a white background\n\na red circle\n")
    return path


def test_what_is_kept_holds_the_model_to_what_it_was(data, ranks, tmp_path, prompts):
    """Where nothing but that is trained, nothing is: the LoRA's product stays 0, and the loss is 0 from the start."""
    settings = {"steps": 4, "keep": 0.999999, "dropout": 0.0, "weight_decay": 0.0}
    job = replace(job_for(data, tmp_path / "a.safetensors", **settings), keep_prompts=prompts)
    heard = Heard()
    train(job, ranks, heard)
    assert all(step.loss == 0 for step in heard.steps)
    assert all((patch.up == 0).all() for several in read_lora(job.output).patches.values() for patch in several)


def test_prompts_to_keep_that_are_none(data, ranks, tmp_path, prompts):
    job = job_for(data, tmp_path / "a.safetensors", keep=0.5)
    with pytest.raises(MochiError, match="there are no prompts to keep"):
        train(job, ranks, Heard())
    with pytest.raises(MochiError, match=r"nowhere.txt: the prompts to keep cannot be read"):
        train(replace(job, keep_prompts=tmp_path / "nowhere.txt"), ranks, Heard())
    prompts.write_text("\ufeffa dog\n", encoding="utf-8")
    assert keep_prompts(replace(job, keep_prompts=prompts)) == ["a dog"]
    prompts.write_text("\n \n")
    with pytest.raises(MochiError, match=r"there is no prompt in it"):
        train(replace(job, keep_prompts=prompts), ranks, Heard())
