"""YAML whose aliases stand for more than a configuration can hold is refused before anybody copies it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml

from embedrl.errors import ConfigError

MAX_VALUES = 1_000_000
"""Most values that a file may stand for, each alias counted as what it stands for."""

_Loader: type = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def check_yaml_files(words: Sequence[str]) -> None:
    """Check the YAML files that a command line names, and those that they name.

    Args:
        words: The words after the command.

    Raises:
        ConfigError: As `check_yaml`.
    """
    for word in words:
        check_yaml(Path(word.rpartition("=")[2]))


def check_yaml(path: Path, seen: set[Path] | None = None) -> None:
    """Check that the aliases of a YAML file, and of those it names, stand for a bounded number of values.

    What cannot be read passes: whoever parses it says why.

    Args:
        path: The file; anything but an existing `.yaml` or `.yml` file passes.
        seen: Files that were checked.

    Raises:
        ConfigError: If they stand for more than `MAX_VALUES`, or for themselves.
    """
    seen = set() if seen is None else seen
    if path.suffix not in (".yaml", ".yml") or path in seen:
        return
    seen.add(path)
    try:
        if not path.is_file():
            return
        root = yaml.compose(path.read_text(encoding="utf-8"), Loader=_Loader)
        number = 0.0 if root is None else _values(root, {})
        named = [] if root is None else list(_texts(root))
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return
    if number > MAX_VALUES:
        raise ConfigError(
            f"{path}: its aliases (*name) stand for more than {MAX_VALUES} values: write out what is meant"
        )
    for name in named:
        check_yaml(path.parent / name, seen)


def _values(node: yaml.Node, known: dict[int, float]) -> float:
    """How many values a node stands for, itself included; infinitely many if it holds itself."""
    if id(node) not in known:
        known[id(node)] = float("inf")
        parts = [_values(part, known) for part in _parts(node)]
        known[id(node)] = 1 + sum(parts)
    return known[id(node)]


def _texts(root: yaml.Node) -> Iterator[str]:
    """The names of YAML files among the values, each node once."""
    waiting, seen = [root], {id(root)}
    while waiting:
        node = waiting.pop()
        if isinstance(node, yaml.ScalarNode) and node.value.endswith((".yaml", ".yml")):
            yield node.value
        for part in _parts(node):
            if id(part) not in seen:
                seen.add(id(part))
                waiting.append(part)


def _parts(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []
