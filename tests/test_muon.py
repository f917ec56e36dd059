"""Muon: its orthogonalisation, its updates and what it refuses."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from scenetok_ns.muon import Muon, Together, matrices_inside, orthogonalized


@pytest.mark.parametrize("shape", [(3, 8, 24), (2, 24, 8), (1, 16, 16)])
def test_singular_values_become_about_one_and_the_directions_stay(shape: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    matrices = torch.randn(shape)
    u, _, vt = torch.linalg.svd(matrices, full_matrices=False)
    made = orthogonalized(matrices).float()
    values = u.mT @ made @ vt.mT  # diagonal, if the singular vectors stayed
    diagonal = values.diagonal(dim1=-2, dim2=-1)
    assert (diagonal > 0.6).all() and (diagonal < 1.4).all()
    assert (values - torch.diag_embed(diagonal)).abs().max() < 0.1


def test_an_update_has_the_promised_size_and_lowers_the_loss() -> None:
    torch.manual_seed(0)
    target, layer = torch.randn(12, 20), nn.Parameter(torch.zeros(12, 20))
    optimizer = Muon([layer], lr=torch.tensor(0.1), weight_decay=0.0)
    losses = []
    for _ in range(40):
        loss = (layer - target).square().mean()
        loss.backward()
        before = layer.detach().clone()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        # U V^T of 12 x 20 has a root mean square of 1 / sqrt(20); the scale takes that to 0.2.
        assert (layer - before).square().mean().sqrt().item() == pytest.approx(0.02, rel=0.2)
    assert losses[-1] < 0.3 * losses[0]


def test_matrices_of_a_shape_are_moved_as_if_each_were_alone() -> None:
    torch.manual_seed(0)
    gradients, start = torch.randn(3, 6, 10), torch.randn(3, 6, 10)
    many = [nn.Parameter(x.clone()) for x in start]
    alone = [nn.Parameter(x.clone()) for x in start]
    optimizers = [Muon(many, lr=0.1), *(Muon([p], lr=0.1) for p in alone)]
    for _ in range(2):
        for p, q, g in zip(many, alone, gradients, strict=True):
            p.grad, q.grad = g.clone(), g.clone()
        for optimizer in optimizers:
            optimizer.step()
    torch.testing.assert_close(torch.stack([*many]), torch.stack([*alone]), atol=1e-2, rtol=0)
    assert (torch.stack([*many]) - start).abs().amax(dim=(1, 2)).min() > 0.01


def test_what_has_no_gradient_stays_and_vectors_are_refused() -> None:
    still = nn.Parameter(torch.ones(2, 3))
    Muon([still], lr=0.1).step()
    assert torch.equal(still, torch.ones(2, 3))
    with pytest.raises(ValueError, match=r"matrices only.*\(5,\)"):
        Muon([nn.Parameter(torch.ones(5))], lr=0.1)


def test_a_factor_scales_all_peaks_in_place() -> None:
    layer = nn.Linear(4, 4)
    assert matrices_inside([layer]) == [layer.weight]
    rates = [torch.tensor(1e-3), torch.tensor(8e-3)]
    together = Together(torch.optim.AdamW([layer.bias], lr=rates[0]), Muon([layer.weight], lr=rates[1]))
    together.set_learning_rate(0.5)
    together.set_learning_rate(0.25)
    seen = [group["lr"] for optimizer in together.optimizers for group in optimizer.param_groups]
    assert [x.item() for x in seen] == pytest.approx([2.5e-4, 2e-3])
    assert all(a is b for a, b in zip(seen, rates, strict=True))
