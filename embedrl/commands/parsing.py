"""jsonargparse with errors of one line: `explain` picks the one fact a user needs out of its nested reports."""

from __future__ import annotations

import difflib
import inspect
import json
import pydoc
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import yaml
from jsonargparse import ArgumentParser
from omegaconf.errors import OmegaConfBaseException

from embedrl.errors import ConfigError
from embedrl.utils.public_names import import_all, public_names
from embedrl.utils.yaml_checks import check_yaml, check_yaml_files

_KEY = re.compile(r'^(?:- )?Parser key "(?P<key>[^"]+)":\s*(?P<rest>.*)$')
_FRAME = re.compile(
    r"^(?:- )?(Problem with given class_path|Does not validate against|Subtypes:|Errors:|Given value|Problem in )"
)
_WEAK = re.compile(r"<class 'NoneType'>|Expected a path but|Unexpected import path format|either not accessible")
_CALLABLE = re.compile(r"Type typing\.Callable\[.*\] expects a function or a callable class: ")
_GIVEN = re.compile(r"(?<=is not accepted)\. Got value: Namespace\(.*$")
_CLASS = re.compile(r"<class '(?:\w+\.)*(\w+)'>")
_NO_CLASS = re.compile(r"Expected a dot import path string: (\w+)")
_NESTED = re.compile(r"^NestedArg\(key='[^']*', val='?(.*?)'?\)$")
_NOT_ACCEPTED = re.compile(r"Option '(?P<name>\w+)' is not accepted$")
_UNKNOWN = re.compile(r"unrecognized arguments: (?P<flag>--[^\s=;]+)[^;]*(?P<hint>; did you mean .*)?")
_MISSING_FILE = re.compile(
    r"Expected a path but (?P<path>\S+) either not accessible|Unable to load config .(?P<file>\S+?).$"
)


class OneLineErrors(ArgumentParser):  # type: ignore[misc]  # jsonargparse is not typed for mypy here
    """An argument parser that raises a `ConfigError` of one line where jsonargparse prints a page and exits.

    It takes no abbreviated options: what `--trainer.max_step` means must not change with the next option that is added.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})

    def parse_args(self, args: Sequence[str] | None = None, *more: Any, **options: Any) -> Any:
        """Parse the words, once the YAML files that they name are known to be of bounded size.

        Raises:
            ConfigError: If a file or a flag is wrong.
        """
        words = None if args is None else [str(word) for word in args]
        check_yaml_files(words or ())
        if words is not None and not self.exit_on_error:  # nested: jsonargparse passes on a null as the text None
            words = [f"{word[:-4]}null" if word.startswith("--") and word.endswith("=None") else word for word in words]
        return super().parse_args(words, *more, **options)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise what is wrong, naming the flag and the cure.

        Args:
            message: What jsonargparse has to say.
            ex: The exception it comes from.

        Raises:
            ConfigError: Always.
        """
        parser = getattr(ex, "subcommand_parser", None) or self
        options = [option for action in parser._actions for option in action.option_strings]
        if not self.exit_on_error:  # a nested parser: its caller adds the rest of the path
            unknown = _UNKNOWN.match(message)
            if unknown and not unknown["hint"]:  # the same complaint may pass here twice
                message += _did_you_mean(unknown["flag"], options)
            super().error(message, ex)
        prog = parser.prog.replace(" [options]", "")
        raise ConfigError(explain(message, options, prog)) from ex


def with_class_paths(words: Sequence[str]) -> list[str]:
    """The words of a command line, a class of embedrl's that is a flag's value by its whole public name.

    `--model EmbedderModule` becomes `--model embedrl.EmbedderModule`. Before `--help`, the public classes are
    imported, so that jsonargparse lists them as the ones it knows.

    Args:
        words: The words after the command.
    """
    if {"-h", "--help"} & {*words}:
        import_all()
    names, whole = public_names(), []
    for before, word in zip(["", *words], words, strict=False):
        flag, given, value = word.partition("=") if word.startswith("--") else (word, "", "")
        if given:
            whole.append(f"{flag}={names.get(value, value)}")
        else:
            whole.append(names.get(word, word) if before.startswith("--") and "=" not in before else word)
    return _spelled_out(whole)


def _spelled_out(words: list[str]) -> list[str]:
    """A class as `{class_path: ...}` where the Trainer also takes a name, which jsonargparse would take it for."""
    flags = tuple(f"--trainer.{name}" for name in ("strategy", "accelerator", "profiler"))
    told = []
    for before, word in zip(["", *words], words, strict=False):
        flag, given, value = word.partition("=")
        text = value if given and flag in flags else word if before in flags else ""
        if re.fullmatch(r"[A-Za-z_]\w*(\.\w+)+", text):
            word = f"{flag}=" * bool(given) + json.dumps({"class_path": text})
        told.append(word)
    return told


@contextmanager
def mending(words: Sequence[str]) -> Iterator[None]:
    """Tell what is wrong with a configuration by its cause: a YAML file that is broken, a `${...}` without a value.

    Args:
        words: The words of the command line, which name the files.

    Raises:
        ConfigError: What the parser raised, by its cause.
    """
    try:
        yield
    except OmegaConfBaseException as error:
        key = error.full_key or ""
        flag = f"--{key.partition('.')[2] or key}: " if key else ""  # the first word may be the command
        cure = "define it, or write \\${...} where it is nothing but text"
        raise ConfigError(f"{flag}{str(error).splitlines()[0]}; {cure}") from error
    except (ConfigError, UnicodeDecodeError) as error:
        if broken := broken_yaml(words):
            raise ConfigError(broken) from error
        if "Unexpected config" in str(error) and (name := _config_without_options(words)):
            raise ConfigError(
                f"--config {name}: holds no options: write `name: value` lines, or give another"
            ) from error
        raise


def _config_without_options(words: Sequence[str]) -> str | None:
    """The first file given by `--config` that holds something else than a mapping."""
    for before, word in zip(["", *words], words, strict=False):
        name = word if before == "--config" else word.partition("--config=")[2]
        if name and not isinstance(yaml.safe_load(Path(name).read_text(encoding="utf-8")), dict):
            return name
    return None


def broken_yaml(words: Sequence[str]) -> str | None:
    """The first YAML file that cannot be read, with the place, which jsonargparse does not tell.

    Args:
        words: The words of the command line: each may be a file, which may name further ones, relative to itself.

    Raises:
        ConfigError: If a file's aliases stand for too many values.
    """
    left, seen = [Path(word.rpartition("=")[2]) for word in words], set()
    while left:
        path = left.pop(0)
        if path.suffix not in (".yaml", ".yml") or path in seen or not path.is_file():
            continue
        seen.add(path)
        check_yaml(path)
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (yaml.YAMLError, ValueError, RecursionError, OSError) as error:
            return f"{path}: not valid YAML: {' '.join(str(error).split())}"
        left += [path.parent / text for text in _texts(content)]
    return None


def _texts(content: Any) -> Iterator[str]:
    """The file names in what a YAML file holds."""
    inside, seen = [content], set()
    while inside:
        value = inside.pop()
        if isinstance(value, str) and value.endswith((".yaml", ".yml")) and len(value) < 4096:
            yield value
        elif isinstance(value, dict | list) and id(value) not in seen:
            seen.add(id(value))  # an alias may be there a million times
            inside += value.values() if isinstance(value, dict) else value


def explain(message: str, options: list[str], prog: str) -> str:
    """One line for a jsonargparse error message.

    Args:
        message: The message, often a tree of nested "Parser key" lines.
        options: The parser's option strings, for "did you mean".
        prog: The command, for the pointer to its `--help`.

    Returns:
        `--flag: what is wrong; cure`.
    """
    path, leaf = _deepest(message)
    missing = _MISSING_FILE.search(leaf)
    if path and missing:
        given = missing["path"] or missing["file"]
        return f"--{path}: no such file or class: {given} (a path is relative to the YAML that names it)"
    required = re.match(r"the following arguments are required: (.*)", leaf)
    if required:
        names = [name.strip().removeprefix("--") for name in required[1].split(",")]
        flags = ", ".join(f"--{path}.{name}" if path else f"--{name.split('.', 1)[-1]}" for name in names)
        return f"{flags}: required; give it on the command line or in a --config file (see `{prog} --help`)"
    unknown_part = _NOT_ACCEPTED.match(leaf)
    if path and unknown_part:
        hint = _did_you_mean(unknown_part["name"], _arguments(message, leaf))
        cure = hint.replace("mean ", f"mean --{path}.") or f"; `{prog} --{path.split('.')[0]}.help CLASS` lists them"
        return f"--{path}.{unknown_part['name']}: no such option{cure}"
    unknown_part = _UNKNOWN.match(leaf)
    if path and unknown_part:
        cure = (unknown_part["hint"] or "").replace("--", f"--{path}.") or f"; see `{prog} --help`"
        return f"--{path}.{unknown_part['flag'].removeprefix('--')}: no such option{cure}"
    if path:
        return f"--{path}: {leaf}{_cure(leaf, path, prog)}"
    unknown = re.match(r"unrecognized arguments: (\S+)|Subcommand '\w+' does not accept option '(\S+)'", leaf)
    if unknown:
        flag = (unknown[1] or f"--{unknown[2]}").split("=")[0]
        return f"{flag}: no such option{_did_you_mean(flag, options) or f'; see `{prog} --help`'}"
    return f"{leaf.removeprefix('argument ')}; see `{prog} --help`"


def _deepest(message: str) -> tuple[str, str]:
    """The most nested complaint of a message: its key path and its text."""
    stack: list[tuple[int, str]] = []
    best: tuple[tuple[bool, int], str, str] | None = None
    for raw in message.splitlines():
        line = _GIVEN.sub("", _CALLABLE.sub("", raw.strip()))
        indent = len(raw) - len(raw.lstrip())
        while stack and stack[-1][0] >= indent and _KEY.match(line):
            stack.pop()
        key = _KEY.match(line)
        if key:
            stack.append((indent, key["key"]))
            line = key["rest"]
        if not line or _FRAME.match(line):
            continue
        line = line.removeprefix("- ")
        inside = [name for depth, name in stack if depth <= indent]
        score = (not _WEAK.search(line), len(inside))
        if best is None or score > best[0]:
            best = (score, ".".join(dict.fromkeys(inside)), line)
    if best is None:
        return "", " ".join(message.split())
    return best[1], _readable(best[2], message)


def _readable(leaf: str, message: str) -> str:
    unknown = _NO_CLASS.match(leaf)
    if unknown:
        return f"no class of that name: {unknown[1]}"
    text = _CLASS.sub(r"\1", leaf)
    if "Got value" not in text and text.startswith("Expected"):
        given = [_NESTED.sub(r"\1", value) for value in re.findall(r"Given value: (.*)", message)]
        text += f", got {given[-1][:120]}" if given else ""
    if text.startswith("while parsing") or "could not find expected" in text:
        text = " ".join(message.split())  # a YAML syntax error: its place stands on the following lines
    return text.replace(". Got value:", ", got").removesuffix(".")


def _did_you_mean(name: str, options: list[str]) -> str:
    begun = sorted({option for option in options if option.startswith(name)}, key=len)
    close = begun if 0 < len(begun) <= 3 else difflib.get_close_matches(name, options, n=1, cutoff=0.6)
    return f"; did you mean {' or '.join(close)}?" if close else ""


def _arguments(message: str, leaf: str) -> list[str]:
    """The arguments of the class that a complaint is about: the last one that is named before it."""
    before, _, after = message.partition(leaf)
    inside = re.match(r"\. Got value: Namespace\(class_path='([^']+)'", after)
    paths = [inside[1]] if inside else re.findall(r"class_path '([^']+)'", before)
    named = pydoc.locate(paths[-1]) if paths else None
    return list(inspect.signature(named).parameters) if isinstance(named, type) else []


def _cure(leaf: str, path: str, prog: str) -> str:
    if "No module named" in leaf or "has no attribute" in leaf:
        return "; check the spelling of class_path and that its package is installed"
    if leaf.startswith("no class of that name"):
        near = _did_you_mean(leaf.rpartition(" ")[2], list(public_names()))
        return near or "; give a public name of embedrl's, or the import path of a class of yours"
    if "does not exist" in leaf:
        return "; check the path"
    if re.search(r"Expected a list, got \S+\.ya?ml$", leaf):
        return "; check that the file exists and holds one (a path is relative to the YAML that names it)"
    return f"; see `{prog} --help`"
