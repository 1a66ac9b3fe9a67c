import torch

from embedrl.utils.ragged import cat_rows, narrow_to


def test_parts_of_three_axes_are_padded_to_the_longest():
    parts = [torch.ones(2, 3, 4), torch.full((1, 5, 4), 2.0), torch.empty(0, 7, 4)]
    whole = cat_rows(parts)
    assert whole.shape == (3, 7, 4)
    assert torch.equal(whole[:2, :3], parts[0])
    assert torch.equal(whole[2, :5], parts[1][0])
    assert whole.sum() == parts[0].sum() + parts[1].sum()
    assert torch.equal(narrow_to(whole[:2], parts[0]), parts[0])


def test_single_vectors_are_as_torch_has_them():
    parts = [torch.ones(2, 4), torch.zeros(1, 4)]
    assert torch.equal(cat_rows(parts), torch.cat(parts))
    assert narrow_to(parts[0], parts[0]) is parts[0]
