"""`embedrl init`: a recipe of the package as one file of one's own, its fields explained."""

from __future__ import annotations

import importlib
import inspect
import sys
import typing
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from docstring_parser import parse

from embedrl.commands.recipes import recipes_folder
from embedrl.errors import ConfigError, DataError
from embedrl.utils.atomic_files import replacing
from embedrl.utils.yaml_checks import check_yaml

_TOP = {
    "seed_everything": "Seed of weights, data order and draws.",
    "trainer": "The Trainer of PyTorch Lightning.",
    "checkpoint": "Which checkpoints are kept.",
    "model": "What is trained.",
    "data": "What it is trained on, and what it is scored with.",
    "next_command": "The command to name when the training ends.",
    "ckpt_path": "A checkpoint to go on from.",
}
_WIDTH = 120


def init(recipe: str, out: Path | None = None) -> None:
    """Copy a recipe as one file: the parts that it names stand in it, and a comment explains each field.

    Args:
        recipe: A recipe that comes with the package, such as `configs/own_data.yaml` or `own_data`, or a file.
        out: The file to write, which must not be there; without it, the recipe's own name in the working folder.

    Raises:
        ConfigError: If there is no such recipe, the file is there, or a class of the recipe cannot be imported.
        DataError: If a file of the recipe cannot be read.
    """
    path = find_recipe(recipe)
    out = Path(path.name) if out is None else out
    if out.exists():
        raise ConfigError(f"--out {out}: already there: give a new file")
    if out.suffix not in (".yaml", ".yml"):
        raise ConfigError(f"--out {out}: give a name that ends with .yaml")
    from lightning.pytorch import Trainer

    from embedrl.training.run_dir import CheckpointOptions

    top = Fields(_TOP, {"trainer": Trainer, "checkpoint": CheckpointOptions})
    content = _resolved(path, ())
    if not isinstance(content, dict):
        raise ConfigError(f"{recipe}: is a list, which is a part of recipes: give a recipe")
    text = "\n".join([*_head(path), *_lines(content, "", top)]) + "\n"
    out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(out) as part:
        part.write_text(text, encoding="utf-8")
    sys.stdout.write(f"Wrote {out}\n")


def find_recipe(recipe: str) -> Path:
    """The file of a recipe.

    Args:
        recipe: A file, or a recipe of the package: its path, with or without `configs/` and `.yaml`.

    Raises:
        ConfigError: If there is none.
    """
    folder = recipes_folder()
    name = recipe.removeprefix(f"{folder.name}/").removesuffix(".yaml")
    for path in (Path(recipe), folder / f"{name}.yaml"):
        if path.is_file():
            return path
    raise ConfigError(f"{recipe}: no such recipe: `embedrl recipes` lists them")


def _head(path: Path) -> list[str]:
    """The comment lines that a recipe begins with."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line)
    return lines


def _resolved(path: Path, above: tuple[Path, ...]) -> Any:
    """What a YAML file holds, with the files that it names in their place.

    Raises:
        DataError: If a file cannot be read, or names itself.
    """
    check_yaml(path)
    if path in above:
        raise DataError(f"{path} names itself: leave that out")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise DataError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    return _with_parts(content, path, (*above, path))


def _with_parts(value: Any, path: Path, above: tuple[Path, ...]) -> Any:
    if isinstance(value, dict):
        return {key: _with_parts(inner, path, above) for key, inner in value.items()}
    if isinstance(value, list):
        return [_with_parts(inner, path, above) for inner in value]
    if isinstance(value, str) and value.endswith(".yaml") and "\n" not in value and (path.parent / value).is_file():
        return _resolved((path.parent / value).resolve(), above)
    return value


def _lines(value: dict[str, Any], indent: str, about: Fields) -> Iterator[str]:
    """The lines of a mapping, each field below what it is about."""
    for name, inner in value.items():
        if name in about.texts:
            yield from _comment(about.texts[name], indent)
        yield from _field(f"{indent}{name}:", inner, indent, about.classes.get(name))


def _field(head: str, value: Any, indent: str, cls: Any = None) -> Iterator[str]:
    if isinstance(value, dict) and value:
        yield head
        yield from _mapping(value, f"{indent}  ", cls)
    elif isinstance(value, list) and any(isinstance(item, dict) and item for item in value):
        yield head
        for item in value:
            yield from _entry(item, f"{indent}  ")
    else:
        yield f"{head} {_plain(value)}"


def _entry(item: Any, indent: str) -> Iterator[str]:
    """An entry of a list: the lines of a mapping, the first behind a dash, comments above it."""
    if not isinstance(item, dict) or not item:
        yield f"{indent}- {_plain(item)}"
        return
    lines = list(_mapping(item, f"{indent}  "))
    start = next(at for at, line in enumerate(lines) if not line.lstrip().startswith("#"))
    yield from (line[2:] for line in lines[:start])
    yield f"{indent}- {lines[start].lstrip()}"
    yield from lines[start + 1 :]


def _mapping(value: dict[str, Any], indent: str, cls: Any = None) -> Iterator[str]:
    """The lines of a nested mapping: of a class with its arguments, or of plain fields that a class describes."""
    if "class_path" not in value:
        yield from _lines(value, indent, Fields({}, {}) if cls is None else fields_of(cls))
        return
    cls = _class(str(value["class_path"]))
    yield from _comment(_first(parse(inspect.getdoc(cls) or "").short_description or ""), indent)
    yield f"{indent}class_path: {_plain(value['class_path'])}"
    for name, inner in value.items():
        if name == "init_args":
            yield from _field(f"{indent}init_args:", inner, indent, cls)
        elif name != "class_path":
            yield from _field(f"{indent}{name}:", inner, indent)


class Fields(NamedTuple):
    """What is known about the fields of a mapping.

    Attributes:
        texts: What each field is.
        classes: The class of plain values (no `class_path`) that a field holds.
    """

    texts: dict[str, str]
    classes: dict[str, Any]


def fields_of(cls: Any) -> Fields:
    """The arguments of a class, from its docstrings and types and those of the classes below it.

    Args:
        cls: The class, or a function.
    """
    texts: dict[str, str] = {}
    classes: dict[str, Any] = {}
    for owner in reversed(inspect.getmro(cls) if inspect.isclass(cls) else [cls]):
        if owner is object:
            continue
        for described in (owner, vars(owner).get("__init__")):
            params = parse(inspect.getdoc(described) or "").params if described is not None else []
            texts |= {param.arg_name: _first(param.description or "") for param in params}
    with suppress(NameError, TypeError):  # types that are imported for type checkers alone
        hints = typing.get_type_hints(cls.__init__ if inspect.isclass(cls) else cls)
        for name, hint in hints.items():
            plain = [kind for kind in (hint, *typing.get_args(hint)) if is_dataclass(kind)]
            classes |= {name: plain[0]} if plain else {}
    return Fields({name: text for name, text in texts.items() if text}, classes)


def _class(class_path: str) -> Any:
    """The class that a YAML names.

    Raises:
        ConfigError: If it cannot be imported.
    """
    module, _, name = class_path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"class_path {class_path}: {error}: check the spelling, or install what it is from"
        ) from error


def _first(text: str) -> str:
    """The first sentence or two of a description, in one line."""
    line = " ".join(text.split("\n\n")[0].split())
    return line if len(line) <= 240 else line[:240].rpartition(" ")[0] + " ..."


def _comment(text: str, indent: str) -> Iterator[str]:
    """A text as comment lines; none if it is empty."""
    if not text:
        return
    line = f"{indent}#"
    for word in text.split():
        if len(line) + 1 + len(word) > _WIDTH and line != f"{indent}#":
            yield line
            line = f"{indent}#"
        line = f"{line} {word}"
    yield line


def _plain(value: Any) -> str:
    """A value as YAML in one line."""
    text = yaml.safe_dump(value, default_flow_style=True, width=10**6, allow_unicode=True, sort_keys=False)
    return text.removesuffix("\n").removesuffix("\n...")
