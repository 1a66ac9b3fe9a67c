"""Values, JSON documents and bytes that are nearly right, drawn by hypothesis so that a finding shrinks."""

from __future__ import annotations

import copy
import json
from typing import Any

from hypothesis import strategies as st

Draw = Any
"""Hypothesis's `DataObject`: `data.draw(strategy)`."""

_DEEP = "@deep@"  # stands for brackets that no decoder can nest
ODD_TEXTS = [
    "", " ", "\x00", "a\x00b", "\ud800", "\x1b[31mred", "\u202eltr", "../../x", "/dev/null", "/nonexistent/x.png",
    "a" * 300,
    "x/" * 3000, ".", "..", "~", "a.png/", "c:\\x", "<|im_end|>", "<|image_pad|>", "<emb>", "1e999", "nan", "-0",
    "null",
    "true", "{}", "${x}", "${oc.env:NONE}", "%s{0}", "é\u0301\u200d🧑‍🤝‍🧑", "[bold]", "&lt;eot&gt;", "1" * 40, _DEEP,
]  # fmt: skip
TEXTS = st.one_of(st.sampled_from(ODD_TEXTS), st.text(st.characters(), max_size=20))
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 1100),
    st.sampled_from([10**400, -(10**20), 2**63, 1e308, -1e308, 5e-324, 0.5, -0.0]),
    st.floats(),
    TEXTS,
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXTS, inner, max_size=3)),
    max_leaves=5,
)


def mutated(data: Draw, document: Any, most: int = 3) -> Any:
    """A copy of a JSON-like document with up to `most` places replaced, left out, renamed, wrapped or doubled."""
    document = copy.deepcopy(document)
    for _ in range(data.draw(st.integers(0, most), label="changes")):
        document = _changed(data, document)
    return document


def _changed(data: Draw, value: Any) -> Any:
    keys = [*value] if isinstance(value, dict) else [*range(len(value))] if isinstance(value, list) else []
    if not keys or data.draw(st.integers(0, 6)) == 0:
        return data.draw(VALUES, label="value")
    key = data.draw(st.sampled_from(keys), label="key")
    kind = data.draw(st.sampled_from(["inside"] * 5 + ["out", "more", "wrap"]), label="change")
    if kind == "inside":
        value[key] = _changed(data, value[key])
    elif kind == "out":
        del value[key]
    elif kind == "wrap":
        value[key] = [value[key]]
    elif isinstance(value, list):
        value.insert(key, copy.deepcopy(value[key]))
    else:
        value[data.draw(TEXTS, label="name")] = value.pop(key)
    return value


def json_bytes(data: Draw, document: Any, lines: bool = False) -> bytes:
    """A document as JSON or JSON lines, in any of the ways that files have it; now and then broken."""
    ascii_only = data.draw(st.booleans(), label="ascii")
    parts = document if lines and isinstance(document, list) else [document]
    text = "\n".join(json.dumps(part, ensure_ascii=ascii_only) for part in parts) + "\n" * lines
    text = text.replace(f'"{_DEEP}"', "[" * 100_000 + "]" * 100_000)
    content = text.encode("utf-8", "surrogatepass")
    return broken(data, content) if data.draw(st.integers(0, 3), label="broken") == 3 else content


def broken(data: Draw, content: bytes, most: int = 4) -> bytes:
    """Bytes with up to `most` bits flipped, pieces cut, doubled, overwritten or put in, or cut short."""
    for _ in range(data.draw(st.integers(1, most), label="cuts")):
        size = len(content)
        at = data.draw(st.integers(0, max(size - 1, 0)), label="at")
        length = data.draw(st.integers(1, 16), label="length")
        kind = data.draw(st.sampled_from(["flip", "set", "number", "cut", "double", "insert", "end"]), label="kind")
        if kind == "flip" and size:
            bit = content[at] ^ 1 << data.draw(st.integers(0, 7))
            content = content[:at] + bytes([bit]) + content[at + 1 :]
        elif kind == "set":
            content = content[:at] + data.draw(st.binary(min_size=1, max_size=4)) + content[at + 1 :]
        elif kind == "number":
            number = data.draw(st.sampled_from([0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF]))
            width = data.draw(st.sampled_from([1, 2, 4]))
            order = data.draw(st.sampled_from(["big", "little"]))
            packed = (number & (1 << 8 * width) - 1).to_bytes(width, order)
            content = content[:at] + packed + content[at + width :]
        elif kind == "cut":
            content = content[:at] + content[at + length :]
        elif kind == "double":
            content = content[:at] + content[at : at + length] * 2 + content[at + length :]
        elif kind == "insert":
            content = content[:at] + data.draw(st.binary(max_size=8)) + content[at:]
        elif kind == "end":
            content = content[:at]
    return content
