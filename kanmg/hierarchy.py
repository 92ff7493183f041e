"""Hierarchies: levels of properly nested networks and the transfers between them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise, takewhile
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, overload

import numpy as np
import torch

from kanmg.arrays import as_array, like, resolve_dtype
from kanmg.devices import resolve_device
from kanmg.errors import DeviceError, KanmgTypeError, KanmgValueError
from kanmg.evaluators.base import Evaluator
from kanmg.hierarchy_checks import check_networks, check_size, checked_num_levels, checked_sizes
from kanmg.network import Affine, Layer, Network, Spline, as_domain
from kanmg.splines.knots import uniform_knots
from kanmg.transfers import Transfer

if TYPE_CHECKING:
    from kanmg.network import Domain, Outside

__all__ = ["EvaluatorChoice", "EvaluatorFactory", "Hierarchy", "Level", "Transfer", "uniform_hierarchy"]

EvaluatorFactory: TypeAlias = Callable[[Network, np.dtype[Any]], Evaluator]
EvaluatorChoice: TypeAlias = Literal["auto", "cpu", "cuda", "dense", "reference"] | EvaluatorFactory


@dataclass(frozen=True, eq=False)
class Level:
    """A network and the evaluator built for it; it knows nothing of other levels.

    Attributes
    ----------
    index : int
        0 is the coarsest level.
    network : Network
    evaluator : Evaluator
    """

    index: int
    network: Network
    evaluator: Evaluator


class Hierarchy(Sequence[Level]):
    """Levels of properly nested networks, coarsest first, and the transfers between them.

    An immutable sequence of `Level`. `print` shows it as a table, whose column J^T J says how the matrices of
    Gauss-Newton are assembled: from the entries of the Jacobian that are not zero ("strips"), up to which order of
    derivatives in a residual, or from all ("dense").

    Parameters
    ----------
    networks : sequence of Network
        Coarsest first; every network's splines contain those of the one before.
    dtype : {"float64", "float32"}
        Of coefficients, points and values.
    device : {"cpu", "cuda", "cuda:0", ...}
        Where the evaluators compute.
    evaluator : {"auto", "cpu", "cuda", "dense", "reference"} or callable
        "cpu" and "cuda": kernels that touch only the functions that are not zero, for that device; "dense": matrix
        products, for wide layers of few cells; "auto": the one of them that is faster, level by level; "reference":
        plain torch. A class or function is called with a network and the dtype and returns an `Evaluator`; where knots
        are free, with a network that has all interior knots twice.

    Attributes
    ----------
    transfers : tuple of Transfer
        Number l lies between the levels l and l + 1.
    dtype : numpy.dtype
    device : str

    Raises
    ------
    NestingError
        If two consecutive networks are not nested.
    KanmgValueError, KanmgTypeError
        If there is no network, or another argument is unusable.

    See Also
    --------
    uniform_hierarchy : networks of one degree and equal cells.

    Examples
    --------
    >>> import kanmg
    >>> coarse = kanmg.Network([kanmg.Spline(2, 3, knots=kanmg.uniform_knots(4, degree=3))])
    >>> hierarchy = kanmg.Hierarchy([coarse, coarse.refine()], evaluator="reference")
    >>> print(hierarchy)
    Hierarchy of 2 levels: widths (2, 3), float64, cpu
    level  cells  coefficients  non-zeros of P  J^T J  evaluator
        0      4            42               -  dense  reference
        1      8            66              54  dense  reference
    """

    def __init__(
        self,
        networks: Iterable[Network],
        *,
        dtype: Any = "float64",
        device: Any = "cpu",
        evaluator: EvaluatorChoice = "auto",
    ) -> None:
        networks = tuple(networks)
        check_networks(networks)
        self._dtype = resolve_dtype(dtype)
        self._device = resolve_device(device)
        self._transfers = tuple(
            Transfer(index, coarse, fine, self._dtype) for index, (coarse, fine) in enumerate(pairwise(networks))
        )
        build = _evaluator_factory(evaluator, self._device)
        self._levels = tuple(
            Level(index, network, _build(build, network, self._dtype)) for index, network in enumerate(networks)
        )

    @classmethod
    def from_network(
        cls,
        network: Network,
        num_levels: int,
        *,
        dtype: Any = "float64",
        device: Any = "cpu",
        evaluator: EvaluatorChoice = "auto",
    ) -> Hierarchy:
        """Refine a network `num_levels - 1` times.

        Parameters
        ----------
        network : Network
            The coarsest level's.
        num_levels : int
            At least 1.
        dtype, device, evaluator
            As for `Hierarchy`.

        Returns
        -------
        Hierarchy

        Raises
        ------
        KanmgTypeError, KanmgValueError
            If `network` is none, or the finest level would have more than 2^28 coefficients.

        Examples
        --------
        >>> import kanmg
        >>> knots = kanmg.knots_from_breakpoints([-1, 0.5, 1], degree=3)
        >>> network = kanmg.Network([kanmg.Affine(2, 5), kanmg.Spline(5, 1, knots=knots)])
        >>> [level.network.num_coefficients for level in Hierarchy.from_network(network, 3, evaluator="reference")]
        [40, 50, 70]
        """
        if not isinstance(network, Network):
            raise KanmgTypeError(f"`network` is a {type(network).__name__}. Pass a `kanmg.Network`.")
        networks = [network]
        number = checked_num_levels(num_levels)
        check_size(network, number)
        for _ in range(number - 1):
            networks.append(networks[-1].refine())
        return cls(networks, dtype=dtype, device=device, evaluator=evaluator)

    @property
    def transfers(self) -> tuple[Transfer, ...]:
        """Number l lies between the levels l and l + 1."""
        return self._transfers

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of coefficients, points and values."""
        return self._dtype

    @property
    def device(self) -> str:
        """Where the evaluators compute."""
        return self._device

    @property
    def home(self) -> torch.device | None:
        """Where a run keeps its vectors: the device whose tensors all evaluators take; None: NumPy arrays."""
        homes = {level.evaluator.home for level in self._levels}
        return homes.pop() if len(homes) == 1 else None

    @property
    def num_levels(self) -> int:
        """Number of levels."""
        return len(self._levels)

    @property
    def widths(self) -> tuple[int, ...]:
        """Number of inputs, of hidden values and of outputs, the same on all levels."""
        return self._levels[0].network.widths

    @property
    def domain(self) -> Domain | None:
        """One interval (a, b) per input; None if the first layer is affine and no domain was given."""
        return self._levels[0].network.domain

    def fixed(self) -> Hierarchy:
        """Return the hierarchy with fixed knots: those that training would begin with.

        Returns
        -------
        Hierarchy
            A new one, also if no knots are free.
        """
        networks = [level.network.fixed() for level in self._levels]
        build = Rebuilding([level.evaluator for level in self._levels])
        return Hierarchy(networks, dtype=self._dtype, device=self._device, evaluator=build)

    def prolong(self, theta: Any, source: int = 0, target: int = -1) -> Any:
        """Take coefficients from level `source` to the finer level `target`: the network's values stay the same.

        Parameters
        ----------
        theta : ndarray or Tensor, shape (num_coefficients,)
            Level `source`'s.
        source, target : int
            Numbers of levels; negative ones count from the finest.

        Returns
        -------
        ndarray or Tensor, shape (num_coefficients,)
            Level `target`'s; a new array.

        Raises
        ------
        KanmgValueError
            If `target` is coarser than `source` or one is no level.
        ShapeError
            If `theta` does not belong to level `source`.
        """
        start, stop = self._index(source), self._index(target)
        if stop < start:
            raise KanmgValueError(
                f"`prolong` goes from coarse to fine, but `source={source}` is finer than `target={target}`. Write "
                f"`hierarchy.transfers[{start - 1}].inject(theta)` to take coefficients one level down."
            )
        is_there = isinstance(theta, torch.Tensor) and theta.device == self.home
        result: Any = theta.detach().clone() if is_there else np.array(as_array(theta, "theta"), dtype=self.dtype)
        self._levels[start].network.unflatten(result)
        for transfer in self._transfers[start:stop]:
            result = transfer.prolong(result)
        return result if is_there else like(result, theta)

    def _index(self, level: int) -> int:
        """Resolve negative numbers of levels."""
        if isinstance(level, bool) or not isinstance(level, int | np.integer):
            raise KanmgTypeError(
                f"{level!r} is no number of a level. Pass an integer, 0 to {self.num_levels - 1}; negative ones count "
                "from the finest."
            )
        if not -self.num_levels <= level < self.num_levels:
            raise KanmgValueError(f"there is no level {level}: the hierarchy has levels 0 to {self.num_levels - 1}.")
        return int(level) % self.num_levels

    @overload
    def __getitem__(self, index: int) -> Level: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Level, ...]: ...
    def __getitem__(self, index: int | slice) -> Level | tuple[Level, ...]:
        return self._levels[index]

    def __len__(self) -> int:
        return len(self._levels)

    def __repr__(self) -> str:
        finest = self._levels[-1].network.num_coefficients
        return f"<{self._title()}, {finest} coefficients on the finest>"

    def __str__(self) -> str:
        header = ("level", "cells", "coefficients", "non-zeros of P", "J^T J", "evaluator")
        rows = [header, *(self._row(level) for level in self)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join([*map(str.rjust, row[:-1], widths[:-1]), row[-1]]) for row in rows]
        return "\n".join([self._title(), *lines])

    def _title(self) -> str:
        levels = f"{self.num_levels} level{'s' if self.num_levels > 1 else ''}"
        return f"Hierarchy of {levels}: widths {self.widths}, {self.dtype}, {self.device}"

    def _row(self, level: Level) -> tuple[str, ...]:
        """Return what the table shows of a level."""
        cells = [str(layer.num_intervals) for layer in level.network.layers if isinstance(layer, Spline)]
        non_zeros = sum(matrix.nnz for matrix in self._transfers[level.index - 1].prolongation) if level.index else None
        return (
            str(level.index),
            (cells[0] if len(set(cells)) == 1 else ", ".join(cells)) or "-",
            str(level.network.num_coefficients),
            "-" if non_zeros is None else str(non_zeros),
            _normal_products(level),
            level.evaluator.name,
        )


def _normal_products(level: Level) -> str:
    """Say how J^T J is multiplied, for residuals with any derivatives that the level's splines have."""
    degrees = [layer.degree for layer in level.network.layers if isinstance(layer, Spline)]
    first, *others = [level.evaluator.normal_product(order) for order in range(min(degrees, default=0) + 1)]
    alike = sum(1 for _ in takewhile(first.__eq__, others))
    return first if alike == len(others) else f"{first} to order {alike}"


class Rebuilding:
    """Builds evaluators like those of a hierarchy for other networks, level by level: for one other hierarchy.

    Parameters
    ----------
    evaluators : sequence of Evaluator
    """

    takes_free_knots = True

    def __init__(self, evaluators: Iterable[Evaluator]) -> None:
        self._evaluators = iter(evaluators)

    def __call__(self, network: Network, dtype: np.dtype[Any]) -> Evaluator:  # noqa: ARG002 - it is theirs
        """Build the next one."""
        return next(self._evaluators).rebuilt(network)


def uniform_hierarchy(
    widths: Sequence[int],
    *,
    degree: int = 3,
    num_intervals: int = 5,
    num_levels: int = 4,
    domain: tuple[float, float] | Sequence[tuple[float, float]] = (-1.0, 1.0),
    lift: Literal["affine"] | None = None,
    outside: Outside = "extend",
    free_knots: bool | int = False,
    dtype: Any = "float64",
    device: Any = "cpu",
    evaluator: EvaluatorChoice = "auto",
) -> Hierarchy:
    """Build a hierarchy of spline networks with equal cells, twice as many on every finer level.

    Parameters
    ----------
    widths : sequence of int
        Number of inputs, of hidden values after every layer, and of outputs.
    degree : int, default 3
        Of all splines; 5 pays for smooth functions.
    num_intervals : int, default 5
        Cells on the coarsest level.
    num_levels : int, default 4
    domain : (float, float) or sequence of (float, float), default (-1, 1)
        Where the inputs lie: for all or one per input. The intervals of hidden values are always (-1, 1).
    lift : {"affine"}, optional
        Make the first layer affine instead of splines.
    outside : {"extend", "linear", "clamp", "zero", "error"}, default "extend"
        What splines are outside their interval, see `kanmg.Spline`.
    free_knots : bool or int, default False
        Whether the knots are trained too, see `kanmg.Spline`: True moves those of the coarsest level, a number so many
        groups of its cells; finer levels bisect the cells.
    dtype, device, evaluator
        As for `Hierarchy`.

    Returns
    -------
    Hierarchy

    Raises
    ------
    KanmgValueError, KanmgTypeError
        If an argument is unusable.

    See Also
    --------
    Hierarchy.from_network : any layers and knots.

    Examples
    --------
    >>> hierarchy = uniform_hierarchy((2, 5, 1), lift="affine", evaluator="reference")
    >>> [level.network.num_coefficients for level in hierarchy]
    [55, 80, 130, 230]
    """
    sizes = checked_sizes(widths, lift)
    intervals = as_domain(domain, sizes[0])
    layers: list[Layer] = []
    for number, (num_inputs, num_outputs) in enumerate(pairwise(sizes)):
        if number == 0 and lift == "affine":
            layers.append(Affine(num_inputs, num_outputs))
            continue
        own = intervals if number == 0 else ((-1.0, 1.0),) * num_inputs
        knots = [uniform_knots(num_intervals, degree=degree, domain=interval) for interval in own]
        layers.append(Spline(num_inputs, num_outputs, knots=knots, outside=outside, free_knots=free_knots))
    network = Network(layers, domain=intervals)
    return Hierarchy.from_network(network, num_levels, dtype=dtype, device=device, evaluator=evaluator)


def _evaluator_factory(choice: EvaluatorChoice, device: str) -> EvaluatorFactory:
    """Find the function that builds evaluators; imports an implementation only when it is wanted."""
    if callable(choice):
        return choice
    if choice not in ("auto", "cpu", "cuda", "dense", "reference"):
        raise KanmgValueError(
            f"`evaluator={choice!r}` is unknown. Use 'auto', 'cpu', 'cuda', 'dense', 'reference', or a class or "
            "function that takes a network and a dtype and returns an `Evaluator`."
        )
    if choice == "reference":
        from kanmg.evaluators.reference import ReferenceEvaluator  # noqa: PLC0415 - as the other implementations

        return partial(ReferenceEvaluator, device=device)
    if choice in ("cpu", "cuda") and choice != device.partition(":")[0]:
        raise DeviceError(
            f"`evaluator={choice!r}` does not compute on `device={device!r}`. Write `evaluator='auto'`, or "
            f"`device={choice!r}`."
        )
    return _cpu_factory(choice) if device == "cpu" else _cuda_factory(choice, device)


def _cpu_factory(choice: str) -> EvaluatorFactory:
    from kanmg.evaluators.cpu import CPUEvaluator  # noqa: PLC0415 - imports Numba
    from kanmg.evaluators.dense import DenseCPUEvaluator, fastest_evaluator  # noqa: PLC0415 - imports Numba

    return {"auto": fastest_evaluator, "cpu": CPUEvaluator, "dense": DenseCPUEvaluator}[choice]


def _cuda_factory(choice: str, device: str) -> EvaluatorFactory:
    from kanmg.evaluators.gpu_dense import DenseGPUEvaluator, GPUEvaluator, fastest_evaluator  # noqa: PLC0415 - as above

    build = {"auto": fastest_evaluator, "cuda": GPUEvaluator, "dense": DenseGPUEvaluator}[choice]
    return partial(build, device=device)


def _build(build: EvaluatorFactory, network: Network, dtype: np.dtype[Any]) -> Evaluator:
    """Build an evaluator and check that it is one."""
    if network.num_logits and not getattr(getattr(build, "func", build), "takes_free_knots", False):
        from kanmg.evaluators.free_knots import FreeKnotEvaluator  # noqa: PLC0415 - as the other implementations

        return FreeKnotEvaluator(network, dtype, partial(_build, build))
    evaluator = build(network, dtype)
    if not isinstance(evaluator, Evaluator):
        raise KanmgTypeError(
            f"`evaluator` returned a {type(evaluator).__name__}. Return a subclass of "
            "`kanmg.evaluators.base.Evaluator`."
        )
    return evaluator
