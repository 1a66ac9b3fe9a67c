"""The command line: one table of commands. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import difflib
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

from embedrl import __version__
from embedrl.commands.recipes import find_recipes
from embedrl.errors import ConfigError, EmbedRLError, disk_error
from embedrl.utils.console import tell
from embedrl.utils.quiet import silence_bars, silence_messages
from embedrl.utils.worker_errors import worker_error


class Command(NamedTuple):
    """One command.

    Attributes:
        help: One line for `embedrl --help`.
        target: `module:callable`. Its typed signature and docstring become the command's options and help.
        composes: Whether its YAML files may name further files and hold `${oc.env:...}`, as those of training may.
        positional: Whether its required arguments are given without flags.
        kept: What is kept when it is interrupted, and how to go on.
    """

    help: str
    target: str
    composes: bool = False
    positional: bool = False
    kept: str = "nothing was written; start it again"


_CHECKPOINT = "what a last.ckpt holds is kept; --ckpt_path last goes on from there"
_JOURNAL = "the answers so far are kept in the journal; the same command goes on from there"
_VECTORS = "the vectors and T-CoTs so far are kept in --out; the same command goes on from there"
_INDEX = "the batches that were written are kept in the index; the same command goes on from there"

COMMANDS: dict[str, Command] = {
    "fit": Command("Train what a YAML describes (LightningCLI)", "embedrl.commands.fit:run", kept=_CHECKPOINT),
    "validate": Command("Score a checkpoint on the validation tasks", "embedrl.commands.fit:run"),
    "test": Command("Score a checkpoint on the test tasks", "embedrl.commands.fit:run"),
    "predict": Command("Embed the test tasks with a checkpoint and write their vectors", "embedrl.commands.fit:run"),
    "stages": Command(
        "Run commands one after another, such as Embedder and Reasoner in turns",
        "embedrl.commands.stages:stages",
        kept="finished stages and the checkpoints of an interrupted fit are kept; the same command goes on from there",
    ),
    "plan": Command("Say what a training would take, from its YAML alone", "embedrl.commands.plan:run"),
    "export": Command("Write a checkpoint as a folder that transformers loads", "embedrl.commands.export:export"),
    "merge": Command("Merge the weights of exported models", "embedrl.commands.merge:merge", True),
    "reason": Command("Write the T-CoT of a picture, a video or a text", "embedrl.commands.reason:reason"),
    "recipes": Command("List or copy the recipes that come with the package", "embedrl.commands.recipes:recipes"),
    "init": Command("Copy a recipe as one file with comments", "embedrl.commands.init:init", positional=True),
    "annotate": Command(
        "Sample pairs and have a VLM write their T-CoTs", "embedrl.construction.annotate:annotate", True, kept=_JOURNAL
    ),
    "filter": Command(
        "Leave out pairs whose T-CoTs conflict", "embedrl.construction.filter:filter_pairs", True, kept=_JOURNAL
    ),
    "split": Command("Split pairs into the Embedder's and EG-RL's", "embedrl.construction.split:split", True),
    "mine": Command(
        "Find hard negatives for the pairs of a mix with an Embedder", "embedrl.mining.mine:mine", True, kept=_VECTORS
    ),
    "gain": Command(
        "Keep T-CoTs in training only where an Embedder gains by them", "embedrl.mining.gain:gain", True, kept=_VECTORS
    ),
    "eval": Command("Score a model on a benchmark", "embedrl.evaluation.run:evaluate", True, kept=_VECTORS),
    "compare": Command("Compare two evaluations", "embedrl.evaluation.compare:compare", positional=True),
    "boundary": Command(
        "Fit up to which difficulty a Reasoner's rollouts succeed", "embedrl.commands.boundary:boundary", True
    ),
    "index build": Command(
        "Embed a folder or a table of items into an index", "embedrl.commands.index:build", positional=True, kept=_INDEX
    ),
    "index add": Command("Add items to an index", "embedrl.commands.index:add", positional=True, kept=_INDEX),
    "index stats": Command("Say what an index holds", "embedrl.commands.index:stats", positional=True),
    "index compact": Command("Join an index's small files", "embedrl.commands.index:compact", positional=True),
    "index delete": Command("Delete rows of an index", "embedrl.commands.index:delete", positional=True),
    "index verify": Command("Check every row of an index", "embedrl.commands.index:verify", positional=True),
    "search": Command("Search an index with a text or a picture", "embedrl.commands.search:search", positional=True),
    "answer": Command("Answer a question from an index, with pictures", "embedrl.commands.answer:answer", False, True),
    "data import": Command(
        "Turn a folder, a table or an archive of captioned pictures into a mix",
        "embedrl.commands.data_import:import_data",
        positional=True,
    ),
    "serve": Command(
        "Serve an index: a page to search with, and HTTP",
        "embedrl.commands.serve:serve",
        positional=True,
        kept="the index is as it was",
    ),
    "judge check": Command(
        "Ask a judge of the process reward questions with known answers, in several orders",
        "embedrl.commands.judge:check",
        True,
    ),
    "data pages": Command(
        "Write the pages that a benchmark's Parquet files hold", "embedrl.evaluation.pages:write_pages"
    ),
    "data stats": Command("Count and plot what is in a mix", "embedrl.construction.stats:stats", True),
    "data world": Command("Draw a contact sheet of the built-in world", "embedrl.data.world.sheet:contact_sheet"),
    "completion": Command(
        "Print a script that completes commands and options in a shell (bash, zsh, fish)",
        "embedrl.commands.completion:completion",
        positional=True,
    ),
}
"""The names may have several words (`data world`); `embedrl data --help` lists what begins with `data`."""

_OWN_PARSER = ("embedrl.commands.fit:run", "embedrl.commands.plan:run")


def main(args: Sequence[str] | None = None) -> int:
    """Run a command.

    An `EmbedRLError` ends in one line on stderr; `EMBEDRL_DEBUG=1` shows its traceback. Any other exception is a bug
    and keeps its traceback.

    Args:
        args: The words after `embedrl`; None means those of `sys.argv`.

    Returns:
        The exit code: 0; 2 for a wrong flag or YAML value; 130 after Ctrl-C; 1 for anything else that went wrong on
        purpose.
    """
    # On a shared CPU, threads must sleep while they wait for one another: those that spin take the core from the one
    # they wait for. OpenMP reads this once, when torch is imported; processes started from here inherit it.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    words = list(sys.argv[1:] if args is None else args)
    try:
        _dispatch(find_recipes(words))
    except (EmbedRLError, ValueError, OSError, RuntimeError) as raised:
        error = _ours(raised)
        if error is None or os.environ.get("EMBEDRL_DEBUG") == "1":
            raise
        tell(f"error: {error}")
        return 2 if isinstance(error, ConfigError) else 1
    except KeyboardInterrupt:
        if os.environ.get("EMBEDRL_DEBUG") == "1":
            raise
        command = COMMANDS.get(_split(words)[0])
        sys.stderr.write(f"\nembedrl: interrupted: {command.kept if command else 'nothing was begun'}\n")
        return 130
    return 0


def _ours(error: BaseException | None) -> EmbedRLError | None:
    """The error of ours behind an exception: jsonargparse wraps what a constructor raises, more than once."""
    while error is not None and not isinstance(error, EmbedRLError):
        if isinstance(error, OSError) and (refused := disk_error(error)):
            return refused
        if ended := worker_error(error, of_loader=False):
            return ended
        error = error.__cause__
    return error


def _dispatch(words: list[str]) -> None:
    if words[:1] == ["--version"]:
        sys.stdout.write(f"embedrl {__version__}\n")
        return
    name, rest = _split(words)
    if name in COMMANDS:
        _run(name, rest)
    elif not rest or rest[0] in ("-h", "--help"):
        sys.stdout.write(_help(name))
    else:
        requested = f"{name} {rest[0]}".strip()
        close = difflib.get_close_matches(requested, COMMANDS, n=1)
        cure = f"did you mean `embedrl {close[0]}`?" if close else "`embedrl --help` lists the commands"
        raise ConfigError(f"no such command: {requested}; {cure}")


def _split(words: list[str]) -> tuple[str, list[str]]:
    """The longest run of leading words that a command begins with, and the rest."""
    taken = 0
    while taken < len(words) and any(_begins(name, words[: taken + 1]) for name in COMMANDS):
        taken += 1
    return " ".join(words[:taken]), words[taken:]


def _begins(name: str, words: Sequence[str]) -> bool:
    return name.split()[: len(words)] == list(words)


def _help(group: str) -> str:
    names = [name for name in COMMANDS if _begins(name, group.split())]
    width = max(len(name) for name in names)
    rows = "".join(f"  {name:<{width}}  {COMMANDS[name].help}\n" for name in names)
    prog = f"embedrl {group}".strip()
    return (
        f"usage: {prog} COMMAND [options]\n\n"
        "Reasoning-driven multimodal embeddings: Embedder, Reasoner and EG-RL on PyTorch Lightning.\n\n"
        f"commands:\n{rows}\n"
        "`embedrl COMMAND --help` lists a command's options; `--version` prints the version.\n"
        "EMBEDRL_DEBUG=1 shows the traceback of an error. Completion in bash: `source <(embedrl completion bash)`.\n"
    )


def _run(name: str, rest: list[str]) -> None:
    target = COMMANDS[name].target
    module, _, attribute = target.partition(":")
    silence_messages()
    function: Callable[..., object] = getattr(importlib.import_module(module), attribute)
    silence_bars()
    if target in _OWN_PARSER:
        function([name, *rest])
        return
    from jsonargparse import auto_cli, set_parsing_settings

    from embedrl.commands.parsing import OneLineErrors, mending, with_class_paths
    from embedrl.utils.secrets import watch_environment

    set_parsing_settings(omegaconf_absolute_to_relative_paths=True)
    watch_environment()
    command = COMMANDS[name]
    with mending(rest):
        auto_cli(
            function,
            args=with_class_paths(rest),
            as_positional=command.positional,
            prog=f"embedrl {name}",
            parser_class=OneLineErrors,
            parser_mode="omegaconf+" if command.composes else "yaml",  # in a `--text`, `${...}` is nothing but text
        )
