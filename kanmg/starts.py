"""Several starts on the coarsest level: how many, and what is spent on each before the best one is chosen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from kanmg.errors import KanmgTypeError, KanmgValueError
from kanmg.smoothers.base import require_count

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Starts", "as_starts", "is_outstanding"]

# The best start is lucky if its loss is below this part of the median.
LUCKY = 0.1


@dataclass(frozen=True)
class Starts:
    """Smooth several initial coefficients on the coarsest level, and go on with the best of them.

    Parameters
    ----------
    number : int, default 8
        Initial coefficients to draw. With 1 there is nothing to choose: the method begins at once.
    steps : int, default 50
        Smoothing steps of each start, by what the method smooths the coarsest level with.
    fraction : float, default 1.0
        Part of the samples that this smoothing sees, in (0, 1]: the same samples for all starts.
    keep : int, default 1
        How many of the best go on before the last choice, at most `number`: with more than 1, for `further_steps`.
    further_steps : int, default 0
        Smoothing steps of each of these; they see the coarsest level's own part of the samples.
    more : int, default 0
        So many more are drawn where none of the first was lucky: their losses spread over a decade and more, but the
        lowest is not below a tenth of their median. They are smoothed, compared and kept as the first are.

    Notes
    -----
    Afterwards the losses of the starts are compared on all samples, at the cost of one loss without gradient each where
    the smoother does not know it; of those that were kept once more after their further steps. A start whose loss
    diverges or is not finite is passed over. After the last choice the run is the one that begins with `initial=` the
    chosen coefficients, to the last bit, unless a `Continuation` follows.

    Where a problem is given by equations, as many starts are smoothed at once as torch may use threads
    (`torch.set_num_threads`): residuals are called in several threads. Every start does the steps that it would do
    alone, and records come in the same order.

    Start 0 begins with the coefficients that `seed` gives without this option, start i with those of
    `kanmg.initial_coefficients(..., seed=numpy.random.SeedSequence(seed, spawn_key=(i,)))`.

    See Also
    --------
    NestedIteration, VCycle, FullMultigrid : The methods that have `starts` as an option.

    Examples
    --------
    >>> import numpy as np
    >>> import kanmg
    >>> x = np.random.default_rng(0).uniform(-1, 1, (500, 2))
    >>> problem = kanmg.Regression(x, np.exp(np.sin(np.pi * x[:, 0]) + x[:, 1] ** 2))
    >>> hierarchy = kanmg.uniform_hierarchy((2, 1, 1), degree=3, num_intervals=3, num_levels=2, evaluator="reference")
    >>> method = kanmg.NestedIteration(steps=50, starts=kanmg.Starts(4, steps=40, fraction=0.5))
    >>> solution = kanmg.solve(problem, hierarchy, method=method)
    >>> solution.history.starts.shape
    (4,)
    """

    number: int = 8
    steps: int = 50
    fraction: float = 1.0
    keep: int = 1
    further_steps: int = 0
    more: int = 0

    def __post_init__(self) -> None:
        require_count("Starts", 1, number=self.number)
        require_count("Starts", 0, steps=self.steps, further_steps=self.further_steps, more=self.more)
        require_count("Starts", 1, keep=self.keep)
        fraction: Any = self.fraction
        if isinstance(fraction, bool) or not isinstance(fraction, int | float | np.number):
            raise KanmgTypeError(f"`Starts` got `fraction={fraction!r}`. Pass a number from (0, 1].")
        if not 0.0 < fraction <= 1.0:
            raise KanmgValueError(f"`Starts` got `fraction={fraction:g}`. It must be positive and at most 1.")
        if self.keep > self.number:
            raise KanmgValueError(
                f"`Starts` got `keep={self.keep}`, but there are only {self.number} to keep. Pass `number`, how many "
                f"are drawn, as well: `kanmg.Starts({2 * self.keep}, keep={self.keep}, further_steps=100)`."
            )
        if self.more and self.number == 1:
            raise KanmgValueError(
                f"`Starts` got `more={self.more}`, but with `number=1` there is no median to compare a start with. "
                "Pass a larger `number`, 8 say, or leave `more` out."
            )
        if self.keep > 1 and self.further_steps == 0:
            raise KanmgValueError(
                f"`Starts` got `keep={self.keep}` without `further_steps`, so that nothing would tell those kept "
                "apart. Say how many steps they get, e.g. `further_steps=100`, or leave `keep` out."
            )


def is_outstanding(losses: Sequence[float]) -> bool:
    """Whether more starts would hardly be better than the best one.

    Parameters
    ----------
    losses : sequence of float
        Of all starts; NaN where one failed.

    Returns
    -------
    bool
        A best one far below the median was lucky. Where all losses lie within a decade, one minimum is as good as
        another.

    Examples
    --------
    >>> is_outstanding([3e-6, 4e-8, 1e-6, 2e-6]), is_outstanding([3e-5, 4e-7, 1e-6, 2e-6])
    (True, False)
    >>> is_outstanding([3e-6, 4e-7, 1e-6, 2e-6])
    True
    """
    known = np.nan_to_num(np.asarray(losses, dtype=np.float64), nan=np.inf)
    finite = known[known < np.inf]
    if not len(finite):
        return False
    best = finite.min()
    return bool(best < LUCKY * np.median(known) or best > LUCKY * finite.max())


def as_starts(owner: str, starts: Any) -> Starts:
    """Return the option `starts` of a method as what it stands for: a number alone has the defaults of `Starts`."""
    if isinstance(starts, Starts):
        return starts
    if isinstance(starts, bool) or not isinstance(starts, int | np.integer):
        hint = " Write `kanmg.Starts(...)`." if starts is Starts else ""
        raise KanmgTypeError(
            f"`{owner}` got `starts={starts!r}`. Pass an integer, at least 1, or e.g. "
            f"`kanmg.Starts(8, steps=50, fraction=0.5)`.{hint}"
        )
    if starts < 1:
        raise KanmgValueError(f"`{owner}` got `starts={starts}`. It must be at least 1.")
    return Starts(int(starts))
