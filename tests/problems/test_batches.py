from __future__ import annotations

import numpy as np
import pytest

from kanmg.problems.batches import Batches, Stream, generator, permutation


@pytest.mark.parametrize(("num_samples", "batch_size"), [(1, 1), (7, 1), (10, 3), (12, 4), (1000, 64), (5, 5)])
def test_every_epoch_visits_every_sample_once(num_samples, batch_size):
    batches = Batches(num_samples, batch_size, seed=3)
    assert batches.steps_per_epoch == -(-num_samples // batch_size)
    for epoch in range(3):
        numbers = range(epoch * batches.steps_per_epoch, (epoch + 1) * batches.steps_per_epoch)
        visited = [batches.positions(number) for number in numbers]
        assert np.array_equal(np.sort(np.concatenate(visited)), np.arange(num_samples))
        assert [len(positions) for positions in visited] == [batches.length(number) for number in numbers]
        assert all(len(positions) == batch_size for positions in visited[:-1])


def test_a_batch_depends_on_its_number_alone():
    forwards, backwards = Batches(50, 8, seed=1), Batches(50, 8, seed=1)
    there = {number: forwards.positions(number).tolist() for number in range(30)}
    back = {number: backwards.positions(number).tolist() for number in reversed(range(30))}
    assert there == back


def test_epochs_and_seeds_have_orders_of_their_own():
    orders = [Batches(50, 50, seed).positions(epoch).tolist() for seed in range(3) for epoch in range(3)]
    assert len({tuple(order) for order in orders}) == 9


@pytest.mark.parametrize("batch_size", [None, 10, 11])
def test_a_batch_that_holds_everything_is_the_only_one(batch_size):
    batches = Batches(10, batch_size, seed=0)
    assert (batches.steps_per_epoch, batches.length(5)) == (1, 10)


def test_orders_are_uniform():
    # Where sample 0 comes to lie in 2,000 orders of 10: chi-square with 9 degrees of freedom, 27.9 at 0.1 %.
    counts = np.bincount(
        [int(np.argmin(permutation(10, 0, Stream.EPOCH, epoch))) for epoch in range(2000)], minlength=10
    )
    assert np.sum((counts - 200.0) ** 2 / 200.0) < 27.9


def test_streams_of_one_seed_are_independent():
    draws = [generator(0, stream).random(4).tolist() for stream in range(4)]
    assert len({tuple(draw) for draw in draws}) == 4
    assert generator(0, Stream.SPLIT).random(4).tolist() == draws[Stream.SPLIT]


def test_an_order_takes_four_bytes_per_sample():
    assert permutation(1000, 0).itemsize == 4
