"""What is no number is seen, wherever it stands."""

from __future__ import annotations

import pytest
import torch

from nexus_core.hf.check import all_finite


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("size", [1, 7, 1024, 100_003])
def test_one_value_that_is_no_number_is_seen(dtype, size):
    tensor = torch.randn(size).to(dtype)
    assert all_finite(tensor)
    for value in (torch.nan, torch.inf, -torch.inf):
        for place in {0, size // 2, size - 1}:
            damaged = tensor.clone()
            damaged[place] = value
            assert not all_finite(damaged)
            assert not all_finite(damaged.reshape(-1, 1).T)


def test_nothing_is_finite():
    assert all_finite(torch.empty(0, 3))
    assert all_finite(torch.tensor(torch.finfo(torch.float32).max))
