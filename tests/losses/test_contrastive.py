import torch

from embedrl.losses.contrastive import batch_labels, key_hashes, known_pairs


def test_key_hashes_are_stable_and_distinct():
    assert key_hashes(["a", "b", "a"]).tolist() == [4681665781835383343, -8902839231844102283, 4681665781835383343]
    assert key_hashes([]).shape == (0,)


def test_labels_say_whose_negatives_they_are():
    labels = batch_labels("abc", "xyz", "nop", [2, 0, 1], [1.0, 2.0, 3.0], [4.0, 5.0, 6.0])
    assert labels.owners.tolist() == [0, 0, 2]
    assert labels.scores.tolist() == [1, 2, 3]
    assert labels.negative_scores.tolist() == [4, 5, 6]
    plain = batch_labels("a", "x")
    assert plain.owners.shape == (0,)
    assert plain.scores.isnan().all()


def test_a_known_pair_is_any_target_of_the_same_query():
    labels = batch_labels("aab", "xyz", "xn", [1, 0, 1])
    known = [[True, True, False, True, False], [True, True, False, True, False], [False, False, True, False, False]]
    assert torch.equal(known_pairs(labels), torch.tensor(known))
