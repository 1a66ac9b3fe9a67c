"""YAML files that do not say what they seem to: aliases that stand for billions of values, keys given twice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml

from embedrl.errors import ConfigError

MAX_VALUES = 1_000_000
"""Most values that a file may stand for, each alias counted as what it stands for."""

_Loader: type = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def check_yaml_files(words: Sequence[str]) -> None:
    """Check the YAML files that a command line names, and those that they name; after `--config`, whatever their names.

    Args:
        words: The words after the command.

    Raises:
        ConfigError: As `check_yaml`.
    """
    for before, word in zip(["", *words], words, strict=False):
        flag, given, value = word.partition("=")
        named = before == "--config" or (given and flag == "--config")
        check_yaml(Path(value if given else word), always=bool(named))


def check_yaml(path: Path, seen: set[Path] | None = None, always: bool = False) -> None:
    """Check a YAML file, and those it names: no key twice in a mapping, aliases for a bounded number of values.

    What cannot be read passes: whoever parses it says why.

    Args:
        path: The file; anything but an existing `.yaml` or `.yml` file passes.
        seen: Files that were checked.
        always: Check it whatever its suffix.

    Raises:
        ConfigError: If a key is there twice, of which a parser takes the last one without a word; or if the aliases
            stand for more than `MAX_VALUES`, or for themselves.
    """
    seen = set() if seen is None else seen
    if (path.suffix not in (".yaml", ".yml") and not always) or path in seen:
        return
    seen.add(path)
    try:
        if not path.is_file():
            return
        root = yaml.compose(path.read_text(encoding="utf-8"), Loader=_Loader)
        number = 0.0 if root is None else _values(root, {})
        nodes = [] if root is None else list(_nodes(root))
        twice = _twice(nodes)
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return
    if number > MAX_VALUES:
        raise ConfigError(
            f"{path}: its aliases (*name) stand for more than {MAX_VALUES} values: write out what is meant"
        )
    if twice is not None:
        first, second = (key.start_mark.line + 1 for key in twice)
        raise ConfigError(
            f"{path}: the key {twice[0].value} is there twice, in lines {first} and {second}: only the last one would "
            "count; put them together, or remove one"
        )
    for node in nodes:
        if isinstance(node, yaml.ScalarNode) and node.value.endswith((".yaml", ".yml")):
            check_yaml(path.parent / node.value, seen)


def _twice(nodes: Sequence[yaml.Node]) -> tuple[yaml.ScalarNode, yaml.ScalarNode] | None:
    """The first key that a mapping has twice; `<<` may be there several times."""
    for node in nodes:
        if isinstance(node, yaml.MappingNode):
            keys: dict[tuple[str, str], yaml.ScalarNode] = {}
            for key, _ in node.value:
                if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                    if (key.tag, key.value) in keys:
                        return keys[key.tag, key.value], key
                    keys[key.tag, key.value] = key
    return None


def _values(node: yaml.Node, known: dict[int, float]) -> float:
    """How many values a node stands for, itself included; infinitely many if it holds itself."""
    if id(node) not in known:
        known[id(node)] = float("inf")
        parts = [_values(part, known) for part in _parts(node)]
        known[id(node)] = 1 + sum(parts)
    return known[id(node)]


def _nodes(root: yaml.Node) -> Iterator[yaml.Node]:
    """Every node once, in the order of the file."""
    waiting, seen = [root], {id(root)}
    while waiting:
        node = waiting.pop()
        yield node
        for part in reversed(_parts(node)):
            if id(part) not in seen:
                seen.add(id(part))
                waiting.append(part)


def _parts(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []
