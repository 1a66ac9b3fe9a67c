"""The classes that the YAML of the documentation and of the recipes names, with their arguments."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
_BLOCK = re.compile(r"^( *)```yaml[^\n]*\n(.*?)^\1```", re.DOTALL | re.MULTILINE)


def blocks() -> Iterator[tuple[Path, str]]:
    """Every YAML snippet of the documentation, and its page."""
    for page in [*ROOT.glob("*.md"), *sorted((ROOT / "docs").rglob("*.md"))]:
        for _, text in _BLOCK.findall(page.read_text(encoding="utf-8")):
            yield page, text


def recipes() -> Iterator[tuple[Path, str]]:
    """Every YAML below `configs`, and its path."""
    for path in sorted((ROOT / "configs").rglob("*.yaml")):
        yield path, path.read_text(encoding="utf-8")


def nodes(value: Any) -> Iterator[dict[str, Any]]:
    """Every `{class_path, init_args}` in a YAML's content."""
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from nodes(item)
    if isinstance(value, dict) and "class_path" in value:
        yield value


def named() -> list[dict[str, Any]]:
    """One example of every class and set of arguments."""
    examples = {}
    for _, text in (*blocks(), *recipes()):
        for node in nodes(yaml.safe_load(text)):
            examples.setdefault((node["class_path"], *sorted(node.get("init_args") or {})), node)
    return list(examples.values())
