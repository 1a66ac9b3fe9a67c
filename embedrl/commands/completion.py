"""`embedrl completion`: a script that completes commands, options and files in a shell."""

from __future__ import annotations

import argparse
import functools
import importlib
import sys
import typing
from collections.abc import Iterator
from typing import Any, Literal

import shtab
from jsonargparse import ArgumentParser, capture_parser

from embedrl import cli

CLASSES = {
    "model": (
        "embedrl.EmbedderModule",
        "embedrl.ReasonerModule",
        "embedrl.EGRLModule",
    ),
    "data": (
        "embedrl.EmbedderDataModule",
        "embedrl.ReasonerDataModule",
        "embedrl.EGRLDataModule",
    ),
}
"""The classes whose arguments a training command takes behind `--model.` and `--data.`."""
HELP = 60
"""Characters of an option's help that zsh and fish show."""


def completion(shell: Literal["bash", "zsh", "fish"]) -> None:
    """Print a script that completes commands, options, their choices and files.

    The script is static: a key press starts no Python. Print it anew after an update.

    bash: `embedrl completion bash > ~/.local/share/bash-completion/completions/embedrl`, or
    `source <(embedrl completion bash)` for this shell alone. zsh: write it to a folder of `$fpath` as `_embedrl`. fish:
    `embedrl completion fish > ~/.config/fish/completions/embedrl.fish`.

    Args:
        shell: The shell to complete in.
    """
    sys.stdout.write(shtab.complete(whole_parser(), shell) + "\n")


@functools.cache
def whole_parser() -> argparse.ArgumentParser:
    """One plain parser with the commands and options of the real ones."""
    root = argparse.ArgumentParser("embedrl")
    root.add_argument("--version", action="store_true", help="Print the version.")
    groups: dict[tuple[str, ...], Any] = {(): root.add_subparsers()}
    for name, command in cli.COMMANDS.items():
        *group, last = name.split()
        if tuple(group) not in groups:
            names = ", ".join(name for name in cli.COMMANDS if name.split()[: len(group)] == group)
            groups[tuple(group)] = groups[()].add_parser(" ".join(group), help=_line(names)).add_subparsers()
        parser = groups[tuple(group)].add_parser(last, help=_line(command.help), add_help=False)
        for action in _actions(name):
            _copy(action, parser)
    return root


def _actions(name: str) -> Iterator[argparse.Action]:
    """The options of a command, from its own parser; of a training command, also those of the modules."""
    parser = capture_parser(cli._run, name, [])
    training = parser._subcommands_action
    if training is None:
        yield from parser._actions
        return
    yield from training._name_parser_map.get(name, training._name_parser_map["fit"])._actions
    for prefix, paths in CLASSES.items():
        for path in paths:
            module, _, attribute = path.rpartition(".")
            parts = ArgumentParser(add_help=False)
            parts.add_class_arguments(getattr(importlib.import_module(module), attribute), prefix)
            yield from parts._actions


def _copy(action: argparse.Action, parser: argparse.ArgumentParser) -> None:
    """Add an option to a plain parser, with what its value may be."""
    flags = [flag for flag in action.option_strings if flag not in parser._option_string_actions]
    if action.help == argparse.SUPPRESS or (action.option_strings and not flags):
        return
    if action.nargs == 0:
        parser.add_argument(*flags, action="store_true", help=_line(action.help))
        return
    choices = [str(choice) for choice in action.choices or _choices(getattr(action, "_typehint", None))]
    added = parser.add_argument(*(flags or [action.dest]), choices=choices or None, help=_line(action.help))
    if not choices:
        added.complete = shtab.FILE  # type: ignore[attr-defined]  # a value, or the YAML file that holds it


def _choices(kind: Any) -> list[str]:
    """The values of a type that has few."""
    if kind is bool:
        return ["true", "false"]
    if typing.get_origin(kind) is Literal:
        return [str(value) for value in typing.get_args(kind)]
    return [value for part in typing.get_args(kind) for value in _choices(part)] if _is_union(kind) else []


def _is_union(kind: Any) -> bool:
    return not isinstance(kind, type) and type(None) in typing.get_args(kind)


def _line(text: str | None) -> str:
    words = " ".join((text or "").split())
    return (words if len(words) <= HELP else words[: HELP - 4].rpartition(" ")[0] + " ...").replace("%", "%%")
