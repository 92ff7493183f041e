"""A program: runs the CUDA kernels as C++, with real threads, while ThreadSanitizer looks for races.

ThreadSanitizer must be there when a process begins (`LD_PRELOAD`), which is why this is a program of its own. It writes
what it finds to the standard error and ends the program with `FOUND`.
"""

from __future__ import annotations

import ctypes
import sys
from typing import ClassVar

import numpy as np
from cuda_standin import Standin, StandinKernels

import kanmg
from kanmg.evaluators.gpu_launch import Limits
from kanmg.evaluators.gpu_source import TILES
from kanmg.evaluators.reference import ReferenceEvaluator
from kanmg.testing.cases import Case

DEGREE = 3
FOUND = 66

# They launch all kernels.
METHODS = ("squared_error", "squared_error_value", "jet_adjoint", "jet_jacobian", "jvp")


class Together(StandinKernels):
    """Kernels whose threads run together, in one block, which takes one tile after the other."""

    libraries: ClassVar = {}

    @property
    def library(self):
        return self.libraries[self.variant.tile]

    def resident(self, *_):
        return 1


def network():
    """Layers of all kinds, with more outputs than one thread takes, few inputs and many."""
    bent = kanmg.knots_from_breakpoints([-1.0, -0.75, -0.7, 0.0, 0.1, 0.5, 1.0], degree=DEGREE)
    uniform, coarse = kanmg.uniform_knots(8, degree=DEGREE), kanmg.uniform_knots(3, degree=2)
    layers = [kanmg.Spline(2, 11, knots=uniform), kanmg.Affine(11, 3), kanmg.Spline(3, 4, knots=bent)]
    return kanmg.Network([*layers, kanmg.Spline(4, 2, knots=coarse)])


def flat(result):
    return [entry for part in result for entry in flat(part)] if isinstance(result, tuple | list) else [result]


def compare(shared_bytes, methods=METHODS):
    """Call methods on a device with so much shared memory."""
    case = Case.drawn(network(), "float64", num_samples=100).curved()
    reference = ReferenceEvaluator(case.network, "float64")

    class Own(Standin):
        limits = Limits(1, shared_bytes)
        kernels_class = Together

    own = Own(case.network, "float64", "cpu")
    for method in methods:
        for found, wanted in zip(flat(case.call(own, method)), flat(case.call(reference, method)), strict=True):
            np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-11 * np.abs(wanted).max())
    sys.stdout.writelines(f"{kernels.variant}\n" for kernels in own.kernels.values())


def forget_to_wait():
    """Sum squared errors of two tiles by threads that do not wait before they add each other's sums."""
    phases = 2 + 2 * (1 + len(network().layers) + 1)
    for library in Together.libraries.values():
        library.forget_to_wait(phases - 1)
    compare(232448, ["squared_error_value"])


if __name__ == "__main__":
    *paths, task = sys.argv[1:]
    Together.libraries.update(zip(TILES, map(ctypes.CDLL, paths), strict=False))
    forget_to_wait() if task == "forget" else compare(int(task))
