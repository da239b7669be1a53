"""What `benchmarks.machines` makes of the times that it notes."""

import os
from types import SimpleNamespace

import pytest

from benchmarks.machines import Watch, actors, resident


def test_a_rate_is_that_between_the_first_and_the_last_video_of_each_worker():
    watch = Watch()
    watch.made_at["a"] = [(10.0, 1.0), (12.0, 1.5), (14.0, 1.9)]  # 2 in 4 s
    watch.made_at["b"] = [(20.0, 1.0), (21.0, 0.75)]  # 1 in 1 s
    watch.made_at["c"] = [(30.0, 1.0)]
    assert watch.rate == pytest.approx(0.5 + 1.0)
    assert watch.overhead == pytest.approx((0.5 + 0.1 + 0.25) / 3)


def test_only_actors_below_this_process_count():
    assert actors() == [] and resident() > 1e7
    watch = Watch()
    watch.made(SimpleNamespace(), SimpleNamespace(name="a"), SimpleNamespace(facts={"seconds": 1.0}))
    assert len(watch.made_at["a"]) == 1 and os.getpid() not in actors()
