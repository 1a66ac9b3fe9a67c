"""Chats that begin alike in one row, `[beginning, end 1, end 2, ...]`, so that the beginning is computed once.

The rollouts of one side share its pictures and its text and differ in their T-CoTs and crops. A row holds what they
share and, one after another, what each has of its own, with the positions it has in a row of its own. A rollout may end
in several ways, such as after each of its sections: a bundle of chats, whose own parts branch off where they differ.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from embedrl.data.inputs import ModelInputs
from embedrl.errors import DataError
from embedrl.models.attention_mask import SHARED
from embedrl.models.patches import VISUAL, Patches, Shown, Visual, Visuals, visual_inputs

MAX_TOKENS = 4096  # a longer row is spread over several: the mask of blocks grows with the square of it


@dataclass(frozen=True, slots=True)
class _Picture:
    """A picture or video: its first token, its kind and itself."""

    start: int
    kind: int
    visual: Visual


@dataclass(frozen=True, slots=True)
class _Reading:
    """A chat as the network reads it, up to `<emb>`: `ids` `[n]`, `positions` `[3, n]`."""

    ids: Tensor
    positions: Tensor
    pictures: list[_Picture]


@dataclass(frozen=True, slots=True)
class _Branch:
    """Tokens of a chat, from `start` to before `end`, which those of the next `inside` branches continue.

    Attributes:
        chat: The number of the chat.
        start: The first token.
        end: The token after the last.
        inside: How many of the branches after it see its tokens.
    """

    chat: int
    start: int
    end: int
    inside: int


@dataclass(frozen=True, slots=True)
class PackedRow:
    """Bundles of chats that go into one row.

    Attributes:
        chats: Their numbers.
        shared: How many tokens they share at the beginning.
        width: Tokens in the row.
    """

    chats: list[int]
    shared: int
    width: int


def group_inputs(
    inputs: ModelInputs,
    visuals: Visuals,
    groups: Sequence[Sequence[Sequence[int]]],
    token: int,
    balance: float,
    max_chats: int,
) -> tuple[Iterator[ModelInputs], Tensor]:
    """Pack the rows of a batch group by group.

    Args:
        inputs: The chats, one a row, without their pixels.
        visuals: Their pictures and videos.
        groups: Bundles of numbers of the chats that may begin alike; each chat is in one bundle of one group. The chats
            of a bundle go into one row and share whatever they have in common, bundles what all of the group have.
        token: The id of `<emb>`; what follows its last occurrence is left out.
        balance: See `plan`.
        max_chats: At most this many chats in a micro-batch; a larger bundle is one of its own.

    Returns:
        The micro-batches, rows of like length together, each made when it is asked for: inputs of the network with
        `segments` `[rows, width]` in place of an attention mask (or `attention_mask`, if no row has two chats),
        `last_segments` `[rows, width]` (if a bundle has several chats; see `block_mask`) and
        `sources` `[chats]`: where in the flattened rows the hidden states at `<emb>` lie. And `order` `[chats]`: output
        `i` is that of chat `order[i]`.

    Raises:
        DataError: If a chat holds no `<emb>`.
    """
    readings = _read(inputs, visuals.shown, token)
    rows: list[PackedRow] = []
    bundles: list[list[_Branch]] = []
    for group in groups:
        shared = common_length([readings[i] for bundle in group for i in bundle])
        numbers = range(len(bundles), len(bundles) + len(group))
        bundles += [_branches(bundle, shared, readings) for bundle in group]
        own = [sum(branch.end - branch.start for branch in bundles[i]) for i in numbers]
        rows += plan(list(numbers), shared, own, balance, max(1, max_chats // max(map(len, group))))
    rows.sort(key=lambda row: row.width)
    order = [[b.chat for i in row.chats for b in bundles[i] if not b.inside] for row in rows]
    chats = [len(numbers) for numbers in order]
    for count in range(min(-(-sum(chats) // max_chats), len(rows)), len(rows) + 1):
        cuts = [len(rows) * i // count for i in range(count + 1)]
        if max(sum(chats[a:b]) for a, b in pairwise(cuts)) <= max_chats:
            break
    parts = [rows[a:b] for a, b in pairwise(cuts)]
    return _stream(parts, bundles, readings, visuals), torch.tensor([i for numbers in order for i in numbers])


def _branches(chats: Sequence[int], start: int, readings: Sequence[_Reading]) -> list[_Branch]:
    """What the chats of a bundle have beyond `start`, which all of them share: a branch before those that continue it.

    A chat ends with a branch that none continues.
    """
    if len(chats) == 1:
        return [_Branch(chats[0], start, len(readings[chats[0]].ids), 0)]
    shared = common_length([readings[i] for i in chats])
    branches: list[_Branch] = []
    rest = list(chats)
    while rest:
        first = rest[0]
        near = [i for i in rest if i == first or common_length([readings[first], readings[i]]) > shared]
        branches += _branches(near, shared, readings)
        rest = [i for i in rest if i not in near]
    return branches if shared == start else [_Branch(chats[0], start, shared, len(branches)), *branches]


def _stream(
    parts: Sequence[Sequence[PackedRow]],
    bundles: Sequence[Sequence[_Branch]],
    readings: Sequence[_Reading],
    visuals: Visuals,
) -> Iterator[ModelInputs]:
    """The micro-batches one after another; a picture that the next one shows too is kept for it."""
    patches: Patches = {}
    for rows in parts:
        packed, shown = _pack(rows, bundles, readings)
        patches = visuals.process(shown, patches)
        yield packed | visual_inputs(shown, patches)


def plan(chats: list[int], shared: int, own: Sequence[int], balance: float, max_chats: int) -> list[PackedRow]:
    """Spread the bundles of a group over the number of rows that costs least.

    Every row computes the beginning again, but attention is computed for all pairs of tokens of a row, whatever the
    mask says: a row of `w` tokens costs `w * (balance + w)`.

    Args:
        chats: Their numbers.
        shared: Tokens they share.
        own: Tokens that each has of its own.
        balance: At this many tokens per row, attention costs as much as the linear layers.
        max_chats: At most this many bundles per row.
    """
    plans: list[tuple[float, list[PackedRow]]] = []
    for count in range(-(-len(chats) // max_chats), len(chats) + 1):
        cuts = [len(chats) * i // count for i in range(count + 1)]
        rows = [PackedRow(chats[a:b], shared, shared + sum(own[a:b])) for a, b in pairwise(cuts)]
        if count == len(chats) or max(row.width for row in rows) <= MAX_TOKENS:
            plans.append((sum(row.width * (balance + row.width) for row in rows), rows))
    return min(plans, key=lambda pair: pair[0])[1]


def common_length(readings: Sequence[_Reading]) -> int:
    """How many tokens the chats share at the beginning, with the same pictures; `<emb>` stays each one's own."""
    first = readings[0]
    shared = min(len(reading.ids) for reading in readings) - 1
    for other in readings[1:]:
        differ = (first.ids[:shared] != other.ids[:shared]).nonzero()
        shared = int(differ[0]) if len(differ) else shared
        for mine, its in zip(first.pictures, other.pictures, strict=False):
            if mine.start >= shared:
                break
            if not mine.visual.shows_the_same(its.visual):
                shared = mine.start
    return shared


def _read(inputs: ModelInputs, shown: Shown, token: int) -> list[_Reading]:
    """The rows of a batch one by one, each with its own pictures."""
    queues = {kind: iter(items) for kind, items in shown.items()}
    readings = []
    for row, mask in enumerate(inputs["attention_mask"].bool()):
        ids, kinds = inputs["input_ids"][row, mask], inputs["mm_token_type_ids"][row, mask]
        positions = (ids == token).nonzero()
        if not len(positions):
            raise DataError(f"row {row} holds no <emb> token (id {token}): render the chat with one")
        end = int(positions[-1]) + 1
        places, pictures = kinds.nonzero()[:, 0].tolist(), []
        at = 0
        while at < len(places):
            kind = int(kinds[places[at]])
            picture = next(queues[kind])
            pictures.append(_Picture(places[at], kind, picture))
            at += picture.tokens
        readings.append(_Reading(ids[:end], inputs["position_ids"][:, row, mask][:, :end], pictures))
    return readings


def _pack(
    rows: Sequence[PackedRow], bundles: Sequence[Sequence[_Branch]], readings: Sequence[_Reading]
) -> tuple[ModelInputs, Shown]:
    """One micro-batch without pixels, and its pictures in the order of their tokens."""
    ids, positions, segments, lasts, ends, pictures = [], [], [], [], [], []
    width = max(row.width for row in rows)
    for number, row in enumerate(rows):
        branches = [branch for i in row.chats for branch in bundles[i]]
        parts = [_Branch(branches[0].chat, 0, row.shared, len(branches)), *branches]
        ids.append(torch.cat([readings[p.chat].ids[p.start : p.end] for p in parts]))
        positions.append(torch.cat([readings[p.chat].positions[:, p.start : p.end] for p in parts], dim=1).T)
        lengths, inside = torch.tensor([p.end - p.start for p in parts]), torch.tensor([p.inside for p in parts])
        own = torch.arange(SHARED, SHARED + len(parts))
        segments.append(own.repeat_interleave(lengths))
        lasts.append((own + inside).repeat_interleave(lengths))
        ends.append(number * width + (lengths.cumsum(0) - 1)[1:][inside[1:] == 0])
        pictures += [
            picture for p in parts for picture in readings[p.chat].pictures if p.start <= picture.start < p.end
        ]
    packed = {
        "input_ids": pad_sequence(ids, batch_first=True),
        "position_ids": pad_sequence(positions, batch_first=True).permute(2, 0, 1),
        "segments": pad_sequence(segments, batch_first=True),
        "sources": torch.cat(ends),
    }
    branching = any(branch.inside for row in rows for i in row.chats for branch in bundles[i])
    if branching:
        packed["last_segments"] = pad_sequence(lasts, batch_first=True)
    elif all(len(row.chats) == 1 and len(bundles[row.chats[0]]) == 1 for row in rows):
        packed["attention_mask"] = (packed.pop("segments") > 0).long()
    return packed, {kind: [p.visual for p in pictures if p.kind == kind] for kind in VISUAL}
