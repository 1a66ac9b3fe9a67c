"""Muon against an orthogonalization by singular values, in double precision."""

import pytest
import timm.optim
import timm.optim.muon as timm_muon
import torch

from embedrl.training import Muon

KEYS = (3.4445, -4.7750, 2.0315)


def by_singular_values(matrix: torch.Tensor, steps: int) -> torch.Tensor:
    """What the iteration makes of a matrix: the polynomial of each singular value, the directions left alone."""
    u, values, v = torch.linalg.svd(matrix.double(), full_matrices=False)
    values = values / matrix.double().norm()
    for _ in range(steps):
        values = KEYS[0] * values + KEYS[1] * values**3 + KEYS[2] * values**5
    return u @ torch.diag(values) @ v


@pytest.mark.parametrize("shape", [(24, 24), (40, 12), (12, 40)])
def test_a_step_is_the_polynomial_of_the_singular_values(shape):
    weights = torch.nn.Parameter(torch.randn(shape))
    before = weights.detach().clone()
    weights.grad = torch.randn(shape)
    optimizer = Muon(
        [weights], lr=1.0, momentum=0.0, nesterov=False, weight_decay=0.0, adjust_lr_fn=None, ns_coefficients=KEYS
    )
    optimizer.step()
    expected = -by_singular_values(weights.grad, optimizer.param_groups[0]["ns_steps"])
    torch.testing.assert_close((weights.detach() - before).double(), expected, atol=1e-5, rtol=1e-4)


def test_several_steps_are_those_of_timm_but_for_its_rounding():
    start, grads = torch.randn(32, 16), torch.randn(6, 32, 16)
    ours, theirs = (torch.nn.Parameter(start.clone()) for _ in range(2))
    settings = {"lr": 1e-2, "betas": (0.9, 0.98), "weight_decay": 0.01, "nesterov": True}
    pairs = [(ours, Muon([ours], **settings)), (theirs, timm.optim.Muon([theirs], **settings))]
    for weights, optimizer in pairs:
        for grad in grads:
            weights.grad = grad.clone()
            optimizer.step()
    moved = (theirs - start).norm()
    assert 0 < (ours - theirs).norm() < 0.02 * moved
    assert pairs[0][1].state_dict()["param_groups"] == pairs[1][1].state_dict()["param_groups"]


def test_timm_is_left_as_it_was_when_a_step_fails():
    there = timm_muon.zeropower_via_newtonschulz

    def closure():
        raise ArithmeticError("no loss")

    with pytest.raises(ArithmeticError):
        Muon([torch.nn.Parameter(torch.zeros(2, 2))], lr=1.0).step(closure)
    assert timm_muon.zeropower_via_newtonschulz is there
