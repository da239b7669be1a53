"""The order of clips: every clip once an epoch, batches of one size, nothing but the seed and the number counts."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from mochi.train.order import Order, generator_of

sizes = st.lists(st.sampled_from([(7, 30, 53), (1, 30, 53), (3, 8, 8)]), min_size=1, max_size=40)


@given(sizes=sizes, batch=st.integers(1, 5), seed=st.integers(0, 3), epoch=st.integers(0, 5))
def test_every_clip_comes_once_in_an_epoch(sizes, batch, seed, epoch):
    order = Order(sizes, batch, seed)
    batches = [order[number] for number in range(epoch * order.epoch, (epoch + 1) * order.epoch)]
    assert all(len(some) == batch and len({sizes[i] for i in some}) == 1 for some in batches)
    counts = Counter(i for some in batches for i in some)
    assert counts.keys() == set(range(len(sizes)))
    # Only a last batch is filled up, with clips of its size.
    assert sum(counts.values()) - len(sizes) < batch * len(set(sizes))
    for size in set(sizes):
        most, least = (
            max(c for i, c in counts.items() if sizes[i] == size),
            min(c for i, c in counts.items() if sizes[i] == size),
        )
        assert most - least <= max(1, batch)


@given(sizes=sizes, batch=st.integers(1, 5), number=st.integers(0, 200))
def test_a_run_can_go_on_from_anywhere(sizes, batch, number):
    order = Order(sizes, batch, 7)
    for earlier in range(number % 3):
        _ = order[earlier]
    assert order[number] == Order(sizes, batch, 7)[number]


def test_epochs_and_seeds_differ():
    one, other = Order([0] * 20, 1, 1), Order([0] * 20, 1, 2)
    first, second = ([order[i] for i in range(start, start + 20)] for order, start in ((one, 0), (one, 20)))
    assert first != second and sorted(first) == sorted(second)
    assert first != [other[i] for i in range(20)]
    assert generator_of(1, 2).initial_seed() != generator_of(12).initial_seed()
