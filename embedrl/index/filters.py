"""Filters: one SQL condition over the columns of an index."""

from __future__ import annotations

import re

from embedrl.errors import ConfigError

_QUOTED = re.compile(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|`[^`]*`")


def check_filter(where: str) -> str:
    """A condition in parentheses, once it is known to be one condition and nothing else.

    Lance reads the first condition of a text and ignores what comes behind it, so that a misspelt `AND` would widen
    what is deleted. In parentheses, it must read all.

    Args:
        where: The condition, such as `year > 2020 AND path LIKE 'birds/%'`.

    Raises:
        ConfigError: If it is empty, has a comment, a semicolon, an open quote or an open parenthesis.

    >>> check_filter("year > 2020 OR title = 'a; b'")
    "(year > 2020 OR title = 'a; b')"
    """
    if not where.strip():
        raise ConfigError("--where is empty: give a condition such as `year > 2020`, or leave it out")
    bare = _QUOTED.sub("''", where)
    for mark in (";", "--", "/*", "\0"):
        if mark in bare:
            raise ConfigError(f"--where {where!r:.200} holds {mark!r}: give one condition, without comments")
    if len(re.findall("['\"`]", bare)) != 2 * bare.count("''"):
        raise ConfigError(f"--where {where!r:.200} opens a quote and does not close it: double a quote inside a text")
    depth = 0
    for letter in bare:
        depth += (letter == "(") - (letter == ")")
        if depth < 0:
            break
    if depth:
        raise ConfigError(f"--where {where!r:.200} has parentheses that do not match")
    return f"({where})"


def equals_any(column: str, values: list[str]) -> str:
    """A condition: the column is one of these texts.

    >>> equals_any("key", ["a", "it's"])
    "key IN ('a', 'it''s')"
    """
    return f"{column} IN ({', '.join(quoted(value) for value in values)})"


def quoted(text: str) -> str:
    """A text as SQL writes it."""
    return "'" + text.replace("'", "''") + "'"
