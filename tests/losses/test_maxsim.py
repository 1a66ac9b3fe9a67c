import pytest
import torch
from sentence_transformers.util import maxsim as reference
from token_vectors import slow_maxsim, tokens

from embedrl.losses import maxsim as m
from embedrl.losses.maxsim import maxsim, token_mask

QUERIES, DOCUMENTS = tokens(3, 1, 5), tokens(2, 6, 1, 4, seed=1)


@pytest.mark.parametrize("tile", [1, 40, 1 << 24])
def test_is_the_double_loop_whatever_the_tile(tile, monkeypatch):
    monkeypatch.setattr(m, "TILE", tile)
    expected = torch.tensor([[slow_maxsim(q, d) for d in DOCUMENTS] for q in QUERIES], dtype=torch.float64)
    torch.testing.assert_close(maxsim(QUERIES, DOCUMENTS), expected)


@pytest.mark.parametrize("tile", [40, 1 << 24])
def test_values_and_gradients_are_those_of_sentence_transformers(tile, monkeypatch):
    monkeypatch.setattr(m, "TILE", tile)
    mine, theirs = ([side.float().requires_grad_() for side in (QUERIES, DOCUMENTS)] for _ in range(2))
    scores = maxsim(*mine)
    expected = reference(*theirs, *(token_mask(side) for side in theirs), length_normalize=True)
    torch.testing.assert_close(scores, expected)
    weights = torch.arange(scores.numel()).view_as(scores).float()
    for a, b in zip(
        torch.autograd.grad((scores * weights).sum(), mine),
        torch.autograd.grad((expected * weights).sum(), theirs),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


def test_without_documents_there_are_no_scores():
    assert maxsim(QUERIES, DOCUMENTS[:0]).shape == (3, 0)
    assert maxsim(QUERIES[:0], DOCUMENTS).shape == (0, 4)


def test_computes_in_the_type_that_is_asked_for():
    assert maxsim(QUERIES.float(), DOCUMENTS.float(), torch.float64).dtype == torch.float64
