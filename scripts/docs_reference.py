"""Reference pages of the documentation, made from the code at every build, so that none can be out of date.

An MkDocs hook (`hooks` in mkdocs.yml): a page a package with the docstrings of its modules, a page with every class
that a YAML can name and all its fields, and a page with the help of every command.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import io
import os
import pkgutil
import re
import typing
from collections.abc import Callable, Iterator
from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple
from unittest.mock import patch

from jsonargparse import ArgumentParser, set_parsing_settings
from jsonargparse._typehints import is_subclass_or_implements_protocol

import embedrl
from embedrl import cli

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

OUTSIDE = {
    "LightningModule": "What is trained: `model` of `embedrl fit`.",
    "LightningDataModule": "What it is trained on: `data` of `embedrl fit`.",
    "Callback": "What else happens in a training: `trainer.callbacks`. Those of Lightning work, too.",
    "Strategy": "How processes share a training: `trainer.strategy`. Those of Lightning work, too.",
}
"""What slots are for whose types are not embedrl's."""
YAML_PAGE, COMMAND_PAGE, PACKAGE_PAGES = "reference/yaml.md", "reference/commands.md", "reference/api"


# -------------------------------------------------------------------------------------------- the hook


def on_config(config: MkDocsConfig) -> None:
    """Put the packages' pages behind the other reference pages in the navigation."""
    reference = next(entry["Reference"] for entry in config.nav or [] if "Reference" in entry)
    reference.append({"Packages": [{name: page_of(name)} for name in packages()]})


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Add the packages' pages."""
    from mkdocs.structure.files import File

    for name in packages():
        files.append(File.generated(config, page_of(name), content=package_page(name)))


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Fill in the two pages whose text says only what they are about."""
    made = {YAML_PAGE: yaml_page, COMMAND_PAGE: command_page}.get(page.file.src_uri)
    return markdown if made is None else f"{markdown}\n{made()}"


# -------------------------------------------------------------------------------------------- packages


@cache
def modules() -> tuple[ModuleType, ...]:
    """Every module of embedrl, imported."""
    found = pkgutil.walk_packages(embedrl.__path__, "embedrl.")
    return (embedrl, *(importlib.import_module(info.name) for info in found if not info.name.endswith("__main__")))


def packages() -> list[str]:
    """The names of the packages: `embedrl`, then its rooms."""
    return [module.__name__ for module in modules() if hasattr(module, "__path__")]


def page_of(package: str) -> str:
    """The path of a package's page."""
    return f"{PACKAGE_PAGES}/{package}.md"


def package_page(package: str) -> str:
    """The docstrings of the modules that lie directly in a package (mkdocstrings writes them)."""
    inside = [module for module in modules() if module.__name__.rpartition(".")[0] == package]
    lines = [f"# `{package}`", "", inspect.getdoc(importlib.import_module(package)) or ""]
    rooms = [module for module in inside if hasattr(module, "__path__")]
    if rooms:
        lines += ["", "| room | |", "|---|---|"]
    for room in rooms:
        lines.append(f"| [`{room.__name__}`]({room.__name__}.md) | {summary(room)} |")
    for module in inside:
        if module not in rooms:
            lines += ["", f"## `{module.__name__}`", "", f"::: {module.__name__}"]
    return "\n".join(lines) + "\n"


# -------------------------------------------------------------------------------------------- commands


def command_page() -> str:
    """What `--help` of every command prints."""
    lines = ["| command | |", "|---|---|"]
    for name, command in cli.COMMANDS.items():
        lines.append(f"| [`embedrl {name}`](#embedrl-{name.replace(' ', '-')}) | {command.help} |")
    for name, command in cli.COMMANDS.items():
        lines += ["", f"## embedrl {name}", "", f"{command.help}.", "", f'??? note "embedrl {name} --help"', ""]
        lines += ["    ```text", *(f"    {line}".rstrip() for line in help_of(name).splitlines()), "    ```"]
    return "\n".join(lines) + "\n"


def help_of(command: str) -> str:
    """What `embedrl COMMAND --help` prints, 100 columns wide."""
    out = io.StringIO()
    with patch.dict(os.environ, COLUMNS="100"), contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        cli.main([*command.split(), "--help"])
    return re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue())


# -------------------------------------------------------------------------------------------- YAML


class Field(NamedTuple):
    """One thing that a YAML can set: `path` is dotted where it lies in a group; `hint` is its type."""

    path: str
    hint: Any
    default: str
    text: str


def yaml_page() -> str:
    """Every class that a YAML can name, by the slot that takes it, with all its fields."""
    slots = {slot: classes for slot, classes in find_slots().items() if classes}
    lines = ["| slot | classes |", "|---|---|"]
    for slot, classes in slots.items():
        names = ", ".join(f"[`{cls.__name__}`](#{public_name(cls)})" for cls in classes)
        lines.append(f"| {slot_title(slot)} | {names} |")
    done: set[type] = set()
    for slot, classes in slots.items():
        text = OUTSIDE.get(slot.__name__) or summary(slot)
        lines += ["", f"## {slot_title(slot)}", "", text]
        for cls in [cls for cls in classes if cls not in done]:
            done.add(cls)
            lines += ["", f"### `{public_name(cls)}` {{#{public_name(cls)}}}", "", first_paragraphs(cls)]
            fields = fields_of(cls)
            if fields:
                lines += ["", "| field | type | default | |", "|---|---|---|---|"]
            lines += [
                f"| `{f.path}` | {cell(type_text(f.hint))} | {cell(f.default)} | {cell(f.text)} |" for f in fields
            ]
    return "\n".join(lines) + "\n"


@cache
def public_classes() -> tuple[type, ...]:
    """The classes that embedrl defines, without those that are private to a module."""
    return tuple(
        value
        for module in modules()
        for name, value in vars(module).items()
        if inspect.isclass(value) and value.__module__ == module.__name__ and not name.startswith("_")
    )


@cache
def public_name(cls: type) -> str:
    """The shortest name under which a package exports a class; that of its module if none does."""
    for package in sorted(packages(), key=lambda name: (name.count("."), name)):
        if getattr(importlib.import_module(package), cls.__name__, None) is cls:
            return f"{package}.{cls.__name__}"
    return f"{cls.__module__}.{cls.__qualname__}"


def find_slots() -> dict[type, list[type]]:
    """The types that a field can have, each with the classes that fit; from the trainings and the commands on."""
    from lightning import LightningDataModule, LightningModule
    from lightning.pytorch import Callback
    from lightning.pytorch.strategies import Strategy

    slots: dict[type, list[type]] = {}
    waiting: list[type] = [LightningModule, LightningDataModule, Callback, Strategy]
    waiting += [slot for function in command_functions() for f in fields_of(function) for slot in slots_in(f.hint)]
    while waiting:
        slot = waiting.pop(0)
        if slot in slots:
            continue
        slots[slot] = [cls for cls in public_classes() if fits(cls, slot) and (is_exported(cls) or cls is slot)]
        waiting += [inner for cls in slots[slot] for f in fields_of(cls) for inner in slots_in(f.hint)]
    return slots


def is_exported(cls: type) -> bool:
    """Whether a package exports a class; only such names belong into a YAML."""
    return not public_name(cls).startswith(f"{cls.__module__}.")


def command_functions() -> list[Callable[..., Any]]:
    """The functions behind the commands whose options come from their signature."""
    targets = (command.target for command in cli.COMMANDS.values() if command.target not in cli._OWN_PARSER)
    return [getattr(importlib.import_module(module), name) for module, name in (t.split(":") for t in targets)]


def slots_in(hint: Any) -> Iterator[type]:
    """The classes that a type names."""
    if inspect.isclass(hint) and hint.__module__ not in ("builtins", "typing", "enum") and not issubclass(hint, str):
        yield hint
    for inner in typing.get_args(hint):
        if not isinstance(inner, str):
            yield from slots_in(inner)


def fits(cls: type, slot: type) -> bool:
    """Whether a YAML may name `cls` where `slot` is asked for: as the parser says, and as a protocol's data say."""
    if inspect.isabstract(cls) or getattr(cls, "_is_protocol", False):
        return False
    fitting = is_subclass_or_implements_protocol(cls, slot) and data_of(slot) <= attributes_of(cls)
    return fitting and takes_yaml(cls)


@cache
def takes_yaml(cls: type) -> bool:
    """Whether every argument of a constructor is of a type that a YAML can hold."""
    try:
        fields_of(cls)
    except ValueError:
        return False
    return True


def data_of(slot: type) -> set[str]:
    """The attributes and properties of a protocol."""
    if not getattr(slot, "_is_protocol", False):
        return set()
    properties = {name for name, value in vars(slot).items() if isinstance(value, property)}
    return properties | set(inspect.get_annotations(slot))


def attributes_of(cls: type) -> set[str]:
    """The names that a class has, those included that its methods set on `self`."""
    names = {name for part in cls.__mro__ for name in (*vars(part), *inspect.get_annotations(part))}
    for part in cls.__mro__:
        if part.__module__.partition(".")[0] == "embedrl":
            set_here = re.findall(r"^\s+(self\.[^=(]*?)(?:: [^=]+)? = ", inspect.getsource(part), re.MULTILINE)
            names |= set(re.findall(r"self\.(\w+)", " ".join(set_here)))
    return names


@cache
def fields_of(target: Callable[..., Any]) -> tuple[Field, ...]:
    """The fields of a class, or the options of a function, as jsonargparse reads them."""
    parser = ArgumentParser(exit_on_error=False)
    (parser.add_class_arguments if inspect.isclass(target) else parser.add_function_arguments)(target)
    fields = []
    for action in parser._actions:
        hint = getattr(action, "_typehint", None)
        if hint is not None and not action.dest.endswith(".help"):
            required = action.required or action.dest in parser._extra_required_keys
            default = "required" if required else f"`{shown(action.default)}`"
            text = " ".join((action.help or "").split())
            fields.append(Field(action.dest, hint, default, text))
    return tuple(fields)


def shown(value: Any) -> str:
    """A default as YAML writes it."""
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(shown, value)) + "]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)


def type_text(hint: Any) -> str:
    """A type in few words: `int`, `float | null`, `full | brief`, `list of MixRow`."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is type(None):
        return "null"
    if origin is typing.Literal:
        return " | ".join(shown(argument) for argument in arguments)
    if origin is typing.Union or type(hint).__name__ == "UnionType":
        return " | ".join(type_text(argument) for argument in arguments)
    if origin in (list, tuple, set) or (inspect.isclass(origin) and origin.__name__ == "Sequence"):
        return "list of " + type_text(next((a for a in arguments if a is not Ellipsis), Any))
    if origin is not None and inspect.isclass(origin) and origin.__name__ == "Callable":
        return type_text(arguments[-1]) if arguments else "class"
    if origin is dict:
        return "mapping"
    return hint.__name__ if inspect.isclass(hint) else str(hint).replace("typing.", "")


# -------------------------------------------------------------------------------------------- text


def slot_title(slot: type) -> str:
    """The name of a slot."""
    return f"`{slot.__name__}`"


def summary(thing: Any) -> str:
    """The first paragraph of a docstring, in one line."""
    return " ".join((inspect.getdoc(thing) or "").split("\n\n")[0].split())


def first_paragraphs(cls: type) -> str:
    """A docstring up to its sections (Args, Raises, ...) and examples."""
    doc = inspect.getdoc(cls) or ""
    return re.split(r"\n\n(?=(?:Args|Attributes|Raises|Returns|Examples?):\n|>>> )", doc)[0]


def cell(text: str) -> str:
    """Text for a table's cell."""
    return text.replace("|", "\\|")


set_parsing_settings(omegaconf_absolute_to_relative_paths=True)
