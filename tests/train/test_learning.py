"""A LoRA learns what the tiny model has never seen: the loss on clips of it that are held out falls.

`python -m tiny.evaluate_concept` judges what a whole run has learnt, see docs/training.md.
"""

from dataclasses import replace

from mochi.train.job import Samples
from mochi.train.ranks import Ranks
from mochi.train.settings import Rank, TrainSettings
from mochi.train.trainer import train
from tests.train.helpers import Heard, job_for
from tiny.concept import training_clips, write_clips


def test_a_new_concept_is_learnt(tmp_path):
    write_clips(tmp_path / "clips", training_clips(24))
    settings = TrainSettings(
        steps=90, batch=6, lr=5e-3, warmup=10, attention=Rank(16, 16.0), mlp=Rank(16, 16.0), levels="logit-normal"
    )
    job = job_for(tmp_path / "clips", tmp_path / "cross.safetensors", Samples(every=3, count=0, hold_out=4))
    heard = Heard()
    train(replace(job, settings=replace(settings, steps=3)), Ranks.join("cpu"), heard)
    train(replace(job, settings=settings, samples=replace(job.samples, every=90)), Ranks.join("cpu"), heard)
    first, last = (look.loss for look in (heard.looks[0], heard.looks[-1]))
    assert heard.looks[-1].step == 90 and last < 0.5 * first
