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

MAX_TOKENS = 4096  # a longer row is spread over several, so that few long chats do not fill the memory


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
    max_chats: int,
) -> tuple[Iterator[ModelInputs], Tensor]:
    """Pack the rows of a batch group by group.

    Args:
        inputs: The chats, one a row, without their pixels.
        visuals: Their pictures and videos.
        groups: Bundles of numbers of the chats that may begin alike; each chat is in one bundle of one group. The chats
            of a bundle go into one row. In a group with a bundle of several chats, any of them share what they have in
            common; in others all share what all have.
        token: The id of `<emb>`; what follows its last occurrence is left out.
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
    rows: list[list[_Branch]] = []
    for group in groups:
        shared = common_length([readings[i] for bundle in group for i in bundle])
        own = [max(len(readings[i].ids) for i in bundle) - shared for bundle in group]
        largest = max(map(len, group))
        for row in plan(list(range(len(group))), shared, own, max(1, max_chats // largest)):
            members = [i for number in row.chats for i in group[number]]
            rows.append(_tree(members, 0, readings) if largest > 1 else _fan(members, shared, readings))
    rows.sort(key=_width)
    order = [[branch.chat for branch in row if not branch.inside] for row in rows]
    chats = [len(numbers) for numbers in order]
    for count in range(min(-(-sum(chats) // max_chats), len(rows)), len(rows) + 1):
        cuts = [len(rows) * i // count for i in range(count + 1)]
        if max(sum(chats[a:b]) for a, b in pairwise(cuts)) <= max_chats:
            break
    parts = [rows[a:b] for a, b in pairwise(cuts)]
    return _stream(parts, readings, visuals), torch.tensor([i for numbers in order for i in numbers])


def _width(row: Sequence[_Branch]) -> int:
    return sum(branch.end - branch.start for branch in row)


def _fan(chats: Sequence[int], shared: int, readings: Sequence[_Reading]) -> list[_Branch]:
    """A row of what all chats share, and what each has of its own."""
    own = [_Branch(i, shared, len(readings[i].ids), 0) for i in chats]
    return [_Branch(chats[0], 0, shared, len(own)), *own]


def _tree(chats: Sequence[int], start: int, readings: Sequence[_Reading]) -> list[_Branch]:
    """What chats that are alike up to `start` have beyond it, each part once: a branch before those that continue it.

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
        branches += _tree(near, shared, readings)
        rest = [i for i in rest if i not in near]
    return branches if shared == start else [_Branch(chats[0], start, shared, len(branches)), *branches]


def _stream(
    parts: Sequence[Sequence[Sequence[_Branch]]], readings: Sequence[_Reading], visuals: Visuals
) -> Iterator[ModelInputs]:
    """The micro-batches one after another; a picture that the next one shows too is kept for it."""
    patches: Patches = {}
    for rows in parts:
        packed, shown = _pack(rows, readings)
        patches = visuals.process(shown, patches)
        yield packed | visual_inputs(shown, patches)


def plan(chats: list[int], shared: int, own: Sequence[int], max_chats: int) -> list[PackedRow]:
    """Spread the bundles of a group over as few rows as may be: every row computes the beginning again.

    Args:
        chats: Their numbers.
        shared: Tokens they share.
        own: Tokens that each has of its own.
        max_chats: At most this many bundles per row.
    """
    for count in range(-(-len(chats) // max_chats), len(chats) + 1):
        cuts = [len(chats) * i // count for i in range(count + 1)]
        rows = [PackedRow(chats[a:b], shared, shared + sum(own[a:b])) for a, b in pairwise(cuts)]
        if max(row.width for row in rows) <= MAX_TOKENS:
            break
    return rows


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


def _pack(rows: Sequence[Sequence[_Branch]], readings: Sequence[_Reading]) -> tuple[ModelInputs, Shown]:
    """One micro-batch without pixels, and its pictures in the order of their tokens."""
    ids, positions, segments, lasts, ends, pictures = [], [], [], [], [], []
    width = max(map(_width, rows))
    for number, row in enumerate(rows):
        ids.append(torch.cat([readings[b.chat].ids[b.start : b.end] for b in row]))
        positions.append(torch.cat([readings[b.chat].positions[:, b.start : b.end] for b in row], dim=1).T)
        lengths, inside = torch.tensor([b.end - b.start for b in row]), torch.tensor([b.inside for b in row])
        own = torch.arange(SHARED, SHARED + len(row))
        segments.append(own.repeat_interleave(lengths))
        lasts.append((own + inside).repeat_interleave(lengths))
        ends.append(number * width + (lengths.cumsum(0) - 1)[inside == 0])
        pictures += [p for b in row for p in readings[b.chat].pictures if b.start <= p.start < b.end]
    packed = {
        "input_ids": pad_sequence(ids, batch_first=True),
        "position_ids": pad_sequence(positions, batch_first=True).permute(2, 0, 1),
        "segments": pad_sequence(segments, batch_first=True),
        "sources": torch.cat(ends),
    }
    if all(sum(not branch.inside for branch in row) == 1 for row in rows):
        packed["attention_mask"] = (packed.pop("segments") > 0).long()
    elif any(row[0].inside < len(row) - 1 or any(branch.inside for branch in row[1:]) for row in rows):
        packed["last_segments"] = pad_sequence(lasts, batch_first=True)
    return packed, {kind: [p.visual for p in pictures if p.kind == kind] for kind in VISUAL}
