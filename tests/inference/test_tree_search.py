"""The tree search against hand-made values, and against what it must equal when there is nothing to choose."""

import math

import pytest

from embedrl.inference.section_writer import Draft
from embedrl.inference.tree_search import Node, search, select, ucb


def spelled(branches):
    """Sections are letters: the first branch writes `a`, the next `b`."""

    def expand(numbers, drafts):
        return [
            [Draft((*d.tokens, k), d.text + "abcdef"[k], d.sections + 1, d.sections == 2) for k in range(branches)]
            for d in drafts
        ]

    return expand


def finish(numbers, drafts):
    return [[Draft(d.tokens, d.text + "z" * (3 - d.sections), 3, True)] for d in drafts]


def valued(table):
    return lambda numbers, drafts: [table.get(draft.text, 0.0) for draft in drafts]


def test_ucb_by_hand():
    assert ucb(0.25, 4, 10, 0.5) == pytest.approx(0.25 + 0.5 * math.sqrt(2 * math.log(10) / 4))
    assert ucb(0.25, 1, 1, 9.0) == 0.25, "the only visit so far"


def test_values_are_backed_up_as_means():
    root = Node()
    left, right = Node(parent=root), Node(parent=root)
    root.children = [left, right]
    left.back_up(0.2)
    right.back_up(0.8)
    below = Node(parent=left)
    left.children = [below]
    below.back_up(0.5)
    assert (root.visits, left.visits, right.visits, below.visits) == (3, 2, 1, 1)
    assert root.mean == pytest.approx(0.5)
    assert left.mean == pytest.approx(0.35)


def test_exploration_decides_between_what_is_good_and_what_is_new():
    root = Node()
    good, new = Node(parent=root), Node(parent=root)
    root.children = [good, new]
    for value in (0.6, 0.6, 0.6):
        good.back_up(value)
    new.back_up(0.5)
    assert select(root, 0.0) is good
    assert ucb(0.6, 3, 4, 1.0) < ucb(0.5, 1, 4, 1.0)
    assert select(root, 1.0) is new


def test_what_is_exhausted_is_passed():
    root = Node()
    done, left = Node(Draft(done=True), root), Node(parent=root)
    root.children = [done, left]
    done.back_up(1.0)
    left.back_up(0.0)
    assert select(root, 0.0) is left


@pytest.mark.parametrize("rounds", [1, 2, 3, 9])
def test_one_branch_is_greedy(rounds):
    [(draft, _)] = search(1, spelled(1), valued({}), lambda n, d: [[Draft((), "aaa", 3, True)] for _ in d], rounds, 0.1)
    assert draft.text == "aaa"


def test_the_best_finished_one_is_kept():
    table = {"b": 0.9, "ba": 0.1, "bb": 0.8, "bba": 0.3, "bbb": 0.7}
    [(draft, value)] = search(1, spelled(2), valued(table), finish, 3, 0.0)
    assert (draft.text, value) == ("bbb", 0.7)


def test_a_full_search_finds_the_best_of_all_leaves():
    table = {"abc": 1.0, "c": 0.5, "ccc": 0.4}
    [(draft, _)] = search(1, spelled(3), valued(table), finish, 13, 0.0)  # 1 + 3 + 9 nodes to expand
    assert draft.text == "abc"


def test_a_search_without_time_finishes_its_best_beginning():
    [(draft, _)] = search(1, spelled(2), valued({"b": 0.5}), finish, 1, 0.1)
    assert draft.text == "bzz"


def test_sides_are_searched_independently():
    def value(numbers, drafts):
        return [float(draft.text.startswith("ab"[number])) for number, draft in zip(numbers, drafts, strict=True)]

    together = search(2, spelled(2), value, finish, 6, 0.1)
    assert [draft.text[0] for draft, _ in together] == ["a", "b"]
