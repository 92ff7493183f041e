"""Solutions of consecutive time windows as one function."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from kanmg.arrays import as_array, like
from kanmg.errors import ShapeError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kanmg.evaluators.base import Array
    from kanmg.history import Status
    from kanmg.solution import Solution

__all__ = ["PiecewiseSolution", "joined"]


@dataclass(frozen=True, eq=False, repr=False)
class PiecewiseSolution:
    """The solutions of the time windows, as one function. `print` shows a table, a row per window.

    Attributes
    ----------
    solutions : tuple of Solution
        One per window.
    times : ndarray, shape (number of windows + 1,)
        Where windows begin and end.
    coordinate : str
        The coordinate that was cut into windows.

    Notes
    -----
    It has no `save`: write the windows one by one, `solution.solutions[0].save("window.0.kanmg")`, ..., keep the times,
    and join what `kanmg.load` returns by `kanmg.PiecewiseSolution(solutions, times, "t")`.
    """

    solutions: tuple[Solution, ...]
    times: Array
    coordinate: str

    @property
    def coordinates(self) -> tuple[str, ...]:
        """Names of the inputs."""
        return self.solutions[0].coordinates

    @property
    def status(self) -> Status:
        """How the last window ended; a march ends with a window that was interrupted or stopped, or that failed."""
        return self.solutions[-1].status

    @property
    def loss(self) -> float:
        """The largest loss of a window."""
        return float(np.max([solution.loss for solution in self.solutions]))

    @property
    def seconds(self) -> float:
        """Time spent on all windows."""
        return sum(solution.seconds for solution in self.solutions)

    def __call__(self, x: Any) -> Any:
        """Evaluate the solution of the window that a point lies in; where two meet, that of the earlier one.

        Before the first window and after the last, these two go on by the layers' `outside` policy.

        Parameters
        ----------
        x : ndarray or Tensor, shape (N, d), or one point, shape (d,)

        Returns
        -------
        ndarray or Tensor, shape (N, Q), or (Q,) for one point
            A tensor if `x` is one.
        """
        return self._evaluate(x, lambda solution, points, _: solution(points))

    def derivative(
        self, x: Any, *coordinates: int | str, side: Literal["+", "-"] | None = None, normals: Any = None
    ) -> Any:
        """Evaluate a partial derivative, window by window.

        Parameters
        ----------
        x : ndarray or Tensor
            As for `solution(x)`.
        *coordinates : int or str
        side : {"+", "-"}, optional
        normals : ndarray or Tensor, shape (N, d), or (d,) for one point, optional
            As for `Solution.derivative`.

        Returns
        -------
        ndarray or Tensor, shape (N, Q), or (Q,) for one point
        """
        vectors = None if normals is None else as_array(normals, "normals")
        if vectors is not None:
            if vectors.shape != as_array(x, "x").shape:
                raise ShapeError(
                    f"`normals` has shape {vectors.shape} but `x` {as_array(x, 'x').shape}. Pass one vector for each "
                    "point."
                )
            vectors = vectors.reshape(-1, len(self.coordinates))

        def differentiate(solution: Solution, points: Array, own: Array) -> Array:
            part = None if vectors is None else vectors[own]
            result: Array = solution.derivative(points, *coordinates, side=side, normals=part)
            return result

        return self._evaluate(x, differentiate)

    def _evaluate(self, x: Any, evaluate: Callable[[Solution, Array, Array], Array]) -> Any:
        points = as_array(x, "x")
        rows = points.reshape(1, -1) if points.ndim == 1 and len(self.coordinates) > 1 else points
        columns = rows.reshape(-1, 1) if rows.ndim < 2 else rows
        axis = min(self.coordinates.index(self.coordinate), columns.shape[1] - 1)
        window = np.searchsorted(self.times[1:-1], columns[:, axis])
        values = np.empty((len(columns), self.solutions[0].hierarchy.widths[-1]), columns.dtype)
        # The first window sees its points even if there are none: it checks their shape and dtype.
        for number, solution in enumerate(self.solutions):
            own = window == number
            if number == 0 or own.any():
                values[own] = evaluate(solution, columns[own], own)
        is_single = points.ndim == (1 if len(self.coordinates) > 1 else 0)
        return like(values[0] if is_single else values, x)

    def __repr__(self) -> str:
        start, stop = self.times[[0, -1]]
        return f"<PiecewiseSolution of {len(self.solutions)} windows, {self.coordinate} from {start:g} to {stop:g}>"

    def __str__(self) -> str:
        header = ("window", "from", "to", "status", "loss", "steps", "seconds")
        rows = [
            (
                str(number),
                f"{start:g}",
                f"{stop:g}",
                solution.status.name,
                f"{solution.loss:.3e}",
                str(solution.history[-1].step),
                f"{solution.seconds:.3f}",
            )
            for number, (solution, (start, stop)) in enumerate(zip(self.solutions, pairwise(self.times), strict=True))
        ]
        widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
        return "\n".join("  ".join(map(str.rjust, row, widths)) for row in (header, *rows))


def joined(solutions: Sequence[Any], times: Sequence[float], coordinate: str) -> PiecewiseSolution | None:
    """Join the solutions that there are, from the first window on; None if there is none."""
    found = tuple(solution for solution in solutions if solution is not None)
    return PiecewiseSolution(found, np.array(times[: len(found) + 1]), coordinate) if found else None
