"""The CUDA kernels as C++, and the evaluator that launches them, without a GPU."""

from __future__ import annotations

import pytest
from cuda_standin import COMPILER, NO_COMPILER, standin

from kanmg.testing.contract import EvaluatorContract

pytestmark = pytest.mark.skipif(COMPILER is None, reason=NO_COMPILER)


class TestStandin(EvaluatorContract):
    def make(self, network, dtype):
        return standin(network, dtype)

    @pytest.mark.parametrize("layout", ["strided", "reversed", "transposed", "read-only"])
    def test_any_memory_layout(self, layout, dtype):
        super().test_any_memory_layout(layout, dtype)
