"""Random choices of samples that depend on a seed alone: mini-batches, held-back samples, samples of coarse levels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from kanmg.vectors import Copies, to_device

if TYPE_CHECKING:
    import torch

    from kanmg.evaluators.base import Array

__all__ = ["Batches", "Stream", "generator", "permutation"]


class Stream:
    """What random numbers are for: one seed stands for several independent streams."""

    SPLIT, SUBSET, INPUTS, EPOCH, REPLACED, CANDIDATES = range(6)


def generator(seed: int, *stream: int) -> np.random.Generator:
    """Counter-based random numbers that depend on nothing but these integers."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, *stream))))


def permutation(length: int, seed: int, *stream: int) -> Array:
    """Draw a random order, in four bytes per sample where that is enough.

    Parameters
    ----------
    length : int
    seed, *stream : int
        What the order depends on.

    Returns
    -------
    ndarray of int, shape (length,)

    Examples
    --------
    >>> sorted(permutation(4, 0, Stream.EPOCH, 7).tolist())
    [0, 1, 2, 3]
    """
    order = np.arange(length, dtype=np.int32 if length < 2**31 else np.int64)
    generator(seed, *stream).shuffle(order)
    return order


class Batches:
    """The mini-batches of a run: every epoch visits every sample once, in an order of its own.

    Batch b is a function of the arguments and of b alone. Only the order of the last epoch asked for is kept.

    Parameters
    ----------
    num_samples : int
    batch_size : int or None
        None, or one not below `num_samples`: a single batch.
    seed : int

    Attributes
    ----------
    steps_per_epoch : int

    Examples
    --------
    >>> batches = Batches(10, 4, seed=0)
    >>> batches.steps_per_epoch, [batches.length(b) for b in range(4)]
    (3, [4, 4, 2, 4])
    >>> sorted(int(i) for b in range(3, 6) for i in batches.positions(b))
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    """

    def __init__(self, num_samples: int, batch_size: int | None, seed: int) -> None:
        self.num_samples = num_samples
        self.batch_size = num_samples if batch_size is None else min(batch_size, num_samples)
        self.steps_per_epoch = -(-num_samples // self.batch_size)
        self.seed = seed
        self._epoch = -1
        self._order: Array = np.empty(0, dtype=np.int32)
        self._orders_there: Copies[torch.device, torch.Tensor] = Copies()

    def length(self, number: int) -> int:
        """Count the samples of a batch."""
        start = number % self.steps_per_epoch * self.batch_size
        return min(self.batch_size, self.num_samples - start)

    def positions(self, number: int, device: torch.device | None = None) -> Array:
        """Return the positions of a batch's samples among all; as a tensor if a device is given."""
        epoch, position = divmod(number, self.steps_per_epoch)
        if epoch != self._epoch:
            self._order = permutation(self.num_samples, self.seed, Stream.EPOCH, epoch)
            self._epoch = epoch
            self._orders_there.clear()
        order: Any = self._order
        if device is not None:
            if device not in self._orders_there:
                self._orders_there[device] = to_device(order, device)
            order = self._orders_there[device]
        start = position * self.batch_size
        chosen: Array = order[start : start + self.batch_size]
        return chosen
