"""Perturbed weights come back bit for bit, whatever happens while they are changed."""

import pytest
import torch

from nexus_core.profiling.interventions import changed_weights, low_rank, with_noise


@pytest.mark.parametrize("change", [with_noise(0.05, 42), low_rank(0.25)], ids=["noise", "low_rank"])
def test_restored_bit_for_bit(one_planted, change):
    block = one_planted.teacher.blocks["model.layers.1"]
    before = {name: p.clone() for name, p in block.named_parameters()}
    with changed_weights(block, change):
        assert any(not torch.equal(p, before[name]) for name, p in block.named_parameters())
    assert all(torch.equal(p, before[name]) for name, p in block.named_parameters())
    with pytest.raises(RuntimeError), changed_weights(block, change):
        raise RuntimeError("in the middle")
    assert all(torch.equal(p, before[name]) for name, p in block.named_parameters())


def test_low_rank_has_that_rank_and_is_the_best_of_it(one_planted):
    matrix = torch.randn(16, 24, generator=torch.Generator().manual_seed(0))
    small = low_rank(0.25)("any", matrix)
    assert torch.linalg.matrix_rank(small) == 4
    singular = torch.linalg.svdvals(matrix)
    assert torch.allclose((matrix - small).norm(), singular[4:].norm(), rtol=1e-4)


def test_noise_has_its_scale():
    matrix = torch.randn(200, 200, generator=torch.Generator().manual_seed(0))
    noise = with_noise(0.05, 42)("any", matrix) - matrix
    assert noise.std() / matrix.std() == pytest.approx(0.05, rel=0.02)
