import torch
from loss_batches import labels_of, unit

from embedrl.losses.graded import own_similarities


def test_negatives_are_compared_with_their_own_query():
    queries, targets, negatives = unit(3, 8), unit(3, 8, seed=1), unit(2, 8, seed=2)
    positive, other = own_similarities(queries, targets, negatives, labels_of("abc", "xyz", "no", [0, 0, 2]))
    torch.testing.assert_close(positive, torch.stack([queries[i] @ targets[i] for i in range(3)]))
    torch.testing.assert_close(other, torch.stack([queries[2] @ negatives[0], queries[2] @ negatives[1]]))
