from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, settings

# Deterministic, and without a time limit per example: the first call of a kernel may compile it.
settings.register_profile(
    "kanmg", derandomize=True, deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("kanmg")


def pytest_collection_modifyitems(items):
    on_gpu = [item for item in items if item.get_closest_marker("gpu")]
    if on_gpu and not torch.cuda.is_available():
        for item in on_gpu:
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture
def two_threads():
    """Let torch use two threads while the test runs; the test may change that."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)
