"""Gold evidence in JSON lines: what is read, what is refused, and that it comes through tables and pickles."""

import json
import pickle

import pytest

from embedrl.data.formats import JsonlSource
from embedrl.data.gold import gold_json, packed, read_gold, unpacked
from embedrl.errors import DataError
from embedrl.types import GoldEvidence, Side

WHOLE = {"boxes": [[0, 10, 500, 1000]], "frames": [1, 3], "spans": ["grey cat"], "names": []}
READ = GoldEvidence(((0.0, 10.0, 500.0, 1000.0),), (1, 3), ("grey cat",), ())


@pytest.mark.parametrize(
    ("value", "gold"),
    [
        (None, None),
        ({}, None),
        (WHOLE, READ),
        ({"boxes": []}, GoldEvidence(boxes=())),
        ({"boxes": None}, GoldEvidence()),
    ],
)  # fmt: skip
def test_what_is_read(value, gold):
    assert read_gold(value) == gold
    assert unpacked(packed(gold)) == (gold if gold_json(gold) else None)


@pytest.mark.parametrize(
    "value",
    [
        [], "boxes", {"box": []}, {"boxes": [[0, 0, 0, 10]]}, {"boxes": [[0, 0, 10]]}, {"boxes": [[0, 0, 10, 1001]]},
        {"boxes": [["0", 0, 10, 10]]}, {"boxes": [[float("nan"), 0, 10, 10]]}, {"boxes": [0, 0, 10, 10]},
        {"frames": [0]}, {"frames": [True]}, {"frames": 3}, {"spans": [""]}, {"names": "cat"},
    ],
)  # fmt: skip
def test_what_is_refused(value):
    with pytest.raises(DataError, match="'gold"):
        read_gold(value)


def test_a_row_carries_it(tmp_path):
    rows = [
        {"id": "a", "query": {"text": "a grey cat", "gold": WHOLE}, "target": {"text": "b"}},
        {"id": "b", "query": {"text": "c", "gold": {"frames": [0]}}, "target": {"text": "d"}},
    ]
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    source = JsonlSource(str(path), cache_dir=str(tmp_path))
    pair = pickle.loads(pickle.dumps(source[0]))  # as processes tell each other
    assert pair.query.gold == READ
    assert pair.target.gold is None
    assert pair.query.key == Side("a grey cat").key
    with pytest.raises(DataError, match=r"gold\.frames.*positions of frames, from 1"):
        source[1]
