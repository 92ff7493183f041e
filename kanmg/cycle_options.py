"""Checks of the options of cycles, which also put them into their standard form."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np

from kanmg.continuation import as_continuation
from kanmg.errors import KanmgTypeError, KanmgValueError
from kanmg.program import Variant
from kanmg.smoothers.base import Smoother, require_count, require_fraction
from kanmg.starts import as_starts
from kanmg.weighting import Attention, Balance

__all__ = [
    "check_continuation",
    "check_correction",
    "check_fairing",
    "check_fraction",
    "check_smoothers",
    "check_starts",
    "check_steps",
    "check_weighting",
]


def check_smoothers(cycle: Any, *names: str) -> None:
    """Refuse what is no smoother, and make a tuple of a list."""
    for name in names:
        given = getattr(cycle, name)
        if name == "coarse_smoother" and given is None:
            continue
        if name == "smoother" and isinstance(given, list | np.ndarray):
            given = tuple(np.ravel(given)) if isinstance(given, np.ndarray) else tuple(given)
            object.__setattr__(cycle, name, given)
        if given == ():
            raise KanmgValueError(
                f"`{type(cycle).__name__}` got `{name}=()`, no smoother at all. Pass one, e.g. `kanmg.LBFGS()`, or one "
                "for each level."
            )
        for smoother in given if name == "smoother" and isinstance(given, tuple) else (given,):
            if not isinstance(smoother, Smoother):
                hint = f" Write `{smoother.__name__}(...)`." if isinstance(smoother, type) else ""
                among = f", one of `{name}`" if isinstance(given, tuple) else ""
                raise KanmgTypeError(
                    f"`{type(cycle).__name__}` got `{name}={smoother!r}`{among}. Pass a smoother, e.g. `kanmg.LBFGS()` "
                    f"or `kanmg.Adam(step_size=1e-3)`, or one for each level.{hint}"
                )


def check_steps(cycle: Any, *names: str) -> None:
    """Refuse numbers of steps that are no counts, and make tuples of lists."""
    for name in names:
        steps = getattr(cycle, name)
        if isinstance(steps, list | np.ndarray):
            steps = tuple(int(step) if isinstance(step, np.integer) else step for step in steps)
            object.__setattr__(cycle, name, steps)
        for number in steps if isinstance(steps, tuple) else (steps,):
            require_count(type(cycle).__name__, 0, **{name: number})


def check_fraction(cycle: Any) -> None:
    """Refuse fractions outside (0, 1], and make a tuple of a list."""
    fractions: Any = cycle.coarse_fraction
    if isinstance(fractions, list | np.ndarray):
        fractions = tuple(fractions)
        object.__setattr__(cycle, "coarse_fraction", fractions)
    for fraction in fractions if isinstance(fractions, tuple) else (fractions,):
        if isinstance(fraction, bool) or not isinstance(fraction, int | float | np.number):
            raise KanmgTypeError(
                f"`{type(cycle).__name__}` got `coarse_fraction={fraction!r}`. Pass numbers from (0, 1]."
            )
        if not 0.0 < fraction <= 1.0:
            raise KanmgValueError(
                f"`{type(cycle).__name__}` got `coarse_fraction={fractions}`. Fractions must be positive and at most 1."
            )


def check_starts(cycle: Any) -> None:
    """Refuse numbers of starts that make no sense, and make `Starts` of a number."""
    object.__setattr__(cycle, "starts", as_starts(type(cycle).__name__, cycle.starts))


def check_continuation(cycle: Any) -> None:
    """Refuse what is no continuation and no part of a loss or of points, and make a `Continuation` of a number."""
    owner = type(cycle).__name__
    object.__setattr__(cycle, "continuation", as_continuation(owner, cycle.continuation))
    require_fraction(owner, idle=cycle.idle, redraw=cycle.redraw, hold_back=cycle.hold_back)


def check_weighting(cycle: Any) -> None:
    """Refuse what weighs neither points nor terms, and what compares losses whose weights differ."""
    owner = type(cycle).__name__
    for name, expected in (("attention", Attention), ("balance", Balance)):
        option = getattr(cycle, name)
        if option is not None and not isinstance(option, expected):
            raise KanmgTypeError(f"`{owner}` got `{name}={option!r}`. Pass `kanmg.{expected.__name__}()`, or None.")
        if option is not None and cycle.refit:
            raise KanmgValueError(
                f"`{owner}` got `refit={cycle.refit}` and `{name}`: losses before and after `refit` are compared, but "
                "weighted ones do not compare. Leave out one of the two."
            )


def check_fairing(cycle: Any) -> None:
    """Refuse what is no switch, and what changes the loss that is compared before and after."""
    owner = type(cycle).__name__
    if not isinstance(cycle.fair, bool):
        raise KanmgTypeError(f"`{owner}` got `fair={cycle.fair!r}`. Pass True or False.")
    others = {"redraw": cycle.redraw > 0.0, "attention": cycle.attention, "balance": cycle.balance}
    changing = [name for name, is_given in others.items() if is_given]
    if cycle.fair and changing:
        raise KanmgValueError(
            f"`{owner}` got `fair=True` and `{changing[0]}`: what is faired is a minimum of the loss on the problem's "
            "own points and weights. Leave out one of the two."
        )


def check_retries(cycle: Any) -> None:
    """Refuse numbers of attempts that make no sense, and to compare losses whose weights differ."""
    owner = type(cycle).__name__
    require_count(owner, 0, retries=cycle.retries)
    weighing = [name for name in ("attention", "balance") if getattr(cycle, name) is not None]
    if cycle.retries and weighing:
        raise KanmgValueError(
            f"`{owner}` got `retries={cycle.retries}` and `{weighing[0]}`: attempts are compared, but their weights "
            "differ. Leave out one of the two."
        )


def check_correction(cycle: Any) -> None:
    """Refuse options that no descending cycle has."""
    require_count(type(cycle).__name__, 0, coarse_steps=cycle.coarse_steps)
    require_count(type(cycle).__name__, 1, gamma=cycle.gamma)
    if cycle.variant not in get_args(Variant):
        raise KanmgValueError(f"`{type(cycle).__name__}` got `variant={cycle.variant!r}`. Use 'tau' or 'galerkin'.")
