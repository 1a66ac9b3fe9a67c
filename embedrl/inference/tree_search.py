"""Monte-Carlo tree search over the sections of T-CoTs, for many sides in step. Source: AR-MCTS (2412.14835) §3.3.

A node is a T-CoT so far. Of AR-MCTS it keeps selection by UCB, expansion into several continuations, a value from a
step model in the place of the simulation, and the backup. Retrieval is issued again with each partial T-CoT: how far
what its vector retrieves lies before the rest is part of the value, or all of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from embedrl.inference.section_writer import Draft

Expand = Callable[[Sequence[int], Sequence[Draft]], list[list[Draft]]]
"""Numbers of sides, and one unfinished T-CoT of each → their continuations."""
Value = Callable[[Sequence[int], Sequence[Draft]], list[float]]
"""Numbers of sides, and T-CoTs of them → how good each is; sides may occur more than once."""


@dataclass(eq=False)
class Node:
    """A T-CoT so far, in the tree of one side.

    Attributes:
        draft: The T-CoT.
        parent: The one that it continues.
        children: Its continuations.
        visits: How many values were backed up to it (n).
        mean: Their mean (w).
        value: Its own value.
    """

    draft: Draft = field(default_factory=Draft)
    parent: Node | None = None
    children: list[Node] = field(default_factory=list)
    visits: int = 0
    mean: float = 0.0
    value: float = 0.0

    @property
    def open(self) -> bool:
        """Whether something is left to expand here or below."""
        return any(child.open for child in self.children) if self.children else not self.draft.done

    def back_up(self, value: float) -> None:
        """Count a value here and in every node above: N += 1, Q += (V − Q) / N."""
        node: Node | None = self
        while node is not None:
            node.visits += 1
            node.mean += (value - node.mean) / node.visits
            node = node.parent

    def leaves(self) -> list[Node]:
        """The nodes below that have no continuation, in the order of the branches."""
        return [leaf for child in self.children for leaf in child.leaves()] if self.children else [self]


def ucb(mean: float, visits: int, parent_visits: int, exploration: float) -> float:
    """The upper confidence bound of a node: w + C sqrt(2 ln N / n). Source: AR-MCTS Eq. 5.

    Args:
        mean: Its mean value w.
        visits: Its visits n.
        parent_visits: Those of its parent, N.
        exploration: C.

    >>> round(ucb(0.5, 2, 8, 0.1), 4)
    0.6442
    """
    return mean + exploration * math.sqrt(2 * math.log(parent_visits) / visits)


def select(root: Node, exploration: float) -> Node:
    """The node to expand next: down from the root by the greatest UCB, past what is exhausted; the first of equals."""
    node = root
    while node.children:
        node = max(
            (child for child in node.children if child.open),
            key=lambda child: ucb(child.mean, child.visits, child.parent.visits if child.parent else 1, exploration),
        )
    return node


def search(
    sides: int, expand: Expand, value: Value, finish: Expand, rounds: int, exploration: float
) -> list[tuple[Draft, float]]:
    """Search for the best T-CoT of every side.

    Args:
        sides: Number of sides.
        expand: Writes the next section.
        value: The step value model.
        finish: Writes all the rest, one way.
        rounds: Expansions a side.
        exploration: C of the UCB.

    Returns:
        The finished T-CoT of the greatest value, and that value, of each side; the first of equals.
    """
    roots = [Node() for _ in range(sides)]
    for _ in range(rounds):
        active = [i for i, root in enumerate(roots) if root.open]
        if not active:
            break
        nodes = [select(roots[i], exploration) for i in active]
        _grow(active, nodes, expand, value)
    late = [i for i, root in enumerate(roots) if not any(leaf.draft.done for leaf in root.leaves())]
    if late:
        nodes = [max(roots[i].leaves(), key=lambda leaf: (leaf.draft.sections, leaf.value)) for i in late]
        _grow(late, nodes, finish, value)
    best = [max((leaf for leaf in root.leaves() if leaf.draft.done), key=lambda leaf: leaf.value) for root in roots]
    return [(leaf.draft, leaf.value) for leaf in best]


def _grow(numbers: Sequence[int], nodes: Sequence[Node], expand: Expand, value: Value) -> None:
    """Expand one node of each side, and back up the values of the new ones."""
    groups = expand(numbers, [node.draft for node in nodes])
    flat = [(i, node, draft) for i, node, group in zip(numbers, nodes, groups, strict=True) for draft in group]
    values = value([i for i, _, _ in flat], [draft for _, _, draft in flat])
    for (_, node, draft), score in zip(flat, values, strict=True):
        child = Node(draft, node, value=score)
        node.children.append(child)
        child.back_up(score)
