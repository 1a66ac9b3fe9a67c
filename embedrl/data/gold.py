"""The known evidence of a side as JSON: the key `gold` of a side in JSON lines."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from embedrl.errors import DataError
from embedrl.tcot.schema import clean_text
from embedrl.types import GoldEvidence

KEYS = ("boxes", "frames", "spans", "names")


def read_gold(value: Any) -> GoldEvidence | None:
    """The evidence that an object of JSON lists: any of `boxes`, `frames`, `spans`, `names`; null and `{}` are none.

    Raises:
        DataError: If it is no such object.

    >>> read_gold({"boxes": [[0, 0, 500, 1000]], "names": ["cat"]})
    GoldEvidence(boxes=((0.0, 0.0, 500.0, 1000.0),), frames=None, spans=None, names=('cat',))
    """
    if value is None or value == {}:
        return None
    if not isinstance(value, Mapping) or not set(value) <= set(KEYS):
        raise DataError(f"'gold' is {value!r:.60}: give an object with any of {', '.join(KEYS)}")
    return GoldEvidence(
        boxes=_entries(value, "boxes", _box, "[x1, y1, x2, y2] in 0..1000, x1 < x2 and y1 < y2"),
        frames=_entries(value, "frames", _frame, "positions of frames, from 1"),
        spans=_entries(value, "spans", _text, "texts"),
        names=_entries(value, "names", _text, "texts"),
    )


def gold_json(gold: GoldEvidence | None) -> dict[str, Any]:
    """What `read_gold` reads; `{}` if nothing is known."""
    return {} if gold is None else {key: value for key, value in asdict(gold).items() if value is not None}


def packed(gold: GoldEvidence | None) -> str:
    """As one text, for a table's cell; empty if nothing is known."""
    return json.dumps(gold_json(gold)) if gold is not None else ""


def unpacked(text: str) -> GoldEvidence | None:
    """The evidence of a `packed` text."""
    return read_gold(json.loads(text)) if text else None


def _entries(value: Mapping[str, Any], key: str, convert: Callable[[Any], Any], kind: str) -> tuple[Any, ...] | None:
    entries = value.get(key)
    if entries is None:
        return None
    made = [convert(entry) for entry in entries] if isinstance(entries, list) else [None]
    if None in made:
        raise DataError(f"'gold.{key}' is {entries!r:.60}: give a list of {kind}")
    return tuple(made)


def _box(entry: Any) -> tuple[float, ...] | None:
    if not isinstance(entry, list) or len(entry) != 4 or not all(_is_number(corner) for corner in entry):
        return None
    x1, y1, x2, y2 = map(float, entry)
    return (x1, y1, x2, y2) if 0 <= x1 < x2 <= 1000 and 0 <= y1 < y2 <= 1000 else None


def _frame(entry: Any) -> int | None:
    return entry if isinstance(entry, int) and not isinstance(entry, bool) and entry >= 1 else None


def _text(entry: Any) -> str | None:
    return clean_text(entry) if isinstance(entry, str) and entry.strip() else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
