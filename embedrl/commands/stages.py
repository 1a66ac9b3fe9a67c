"""`embedrl stages`: commands one after another, such as Embedder and Reasoner in turns; what is finished is skipped."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml

from embedrl.commands.recipes import find_recipes
from embedrl.errors import ConfigError, DataError, unreadable
from embedrl.training.run_folder import lock_run, unlock_run
from embedrl.utils.atomic_files import replacing
from embedrl.utils.console import tell

STATE = "stages.json"
Name = Literal["fit", "validate", "test", "export", "merge", "annotate", "filter", "split", "mine", "eval", "boundary"]


@dataclass(frozen=True)
class CommandStage:
    """One command of a list.

    Attributes:
        name: Its name; no other stage has it. A `fit` keeps its run in the folder of this name below `out`.
        command: The command of `embedrl`.
        config: Its `--config` files, in order. What begins with `configs/` may come from the package.
        overlay: More configuration as a text of YAML, laid over these.
        flags: Its options: name without dashes → value. A list or a mapping is given as a text, as on a command line.
        makes: Files and folders that it must leave behind, for later stages.
    """

    name: str
    command: Name
    config: list[str] = field(default_factory=list)
    overlay: str = ""
    flags: dict[str, str | int | float | bool | None] = field(default_factory=dict)
    makes: list[str] = field(default_factory=list)


def stages(stages: list[CommandStage], out: Path) -> None:
    """Run commands one after another; started again, go on where the list was interrupted.

    A finished stage is skipped. A `fit` that was interrupted goes on from its last checkpoint; other commands start
    again and keep what they always keep. What a stage depends on, its command, options and configuration files and all
    stages before it, is written to `stages.json` in `out`: if it has changed, nothing is run, and an error says so.

    Args:
        stages: The list, best in a YAML.
        out: The folder of the stages.

    Raises:
        ConfigError: If a stage is not as it was when it began, a configuration file is missing, or a name occurs twice.
        DataError: If a stage fails, or does not leave behind what it must.
    """
    prints = _check(stages)
    out.mkdir(parents=True, exist_ok=True)
    lock_run(out)
    try:
        state = _read(out / STATE)
        for number, stage in enumerate(stages, 1):
            known = state.get(stage.name)
            if known is not None and known["fingerprint"] != prints[stage.name]:
                raise ConfigError(
                    f"stage {stage.name} is not as it was when it began: its options, its configuration or a stage "
                    f"before it has changed; give another --out, or delete {out / stage.name} and its entry in "
                    f"{out / STATE}"
                )
            title = f"[{number}/{len(stages)}] {stage.name}"
            if known is not None and known["seconds"] is not None:
                _check_made(stage, "is finished, but")
                tell(f"{title}: finished before")
                continue
            words = _words(stage, out, begun=known is not None)
            tell(f"{title}: embedrl {' '.join(words)}")
            state[stage.name] = {"fingerprint": prints[stage.name], "seconds": None}
            _write(out / STATE, state)
            started = time.monotonic()
            code = _run(words)
            if code in (130, 143):
                sys.exit(code)
            if code:
                raise DataError(f"stage {stage.name} ended with exit code {code}: see its message above")
            _check_made(stage, "ended well, but")
            state[stage.name]["seconds"] = round(time.monotonic() - started, 1)
            _write(out / STATE, state)
    finally:
        unlock_run(out)


def _check(stages: Sequence[CommandStage]) -> dict[str, str]:
    """The fingerprint of each stage, which covers those before it."""
    names = [stage.name for stage in stages]
    if not stages:
        raise ConfigError("--stages: give at least one stage")
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ConfigError(f"--stages: the name {twice!r} occurs twice")
    if odd := next((name for name in names if not name or Path(name).name != name or name == STATE), None):
        raise ConfigError(f"--stages: {odd!r} is no name of a folder")
    prints, before = {}, ""
    for stage in stages:
        files = {str(path): hashlib.sha256(text.encode()).hexdigest() for path, text in _files(stage)}
        depends = json.dumps([asdict(stage), sorted(files.values()), before], sort_keys=True, default=str)
        before = prints[stage.name] = hashlib.sha256(depends.encode()).hexdigest()[:32]
    return prints


def _files(stage: CommandStage) -> Iterator[tuple[Path, str]]:
    """The configuration files of a stage, and those that they name, with their texts."""
    todo = [_recipe(word) for word in stage.config]
    for path in todo:
        if not path.is_file():
            raise ConfigError(f"stage {stage.name}: --config {path}: no such file")
    seen: set[Path] = set()
    while todo:
        path = todo.pop().resolve()
        if path in seen:
            continue
        seen.add(path)
        text = path.read_text(encoding="utf-8")
        yield path, text
        with unreadable(f"stage {stage.name}: {path}: no YAML", "mend it"):
            named = [path.parent / word for word in _strings(yaml.safe_load(text)) if word.endswith((".yaml", ".yml"))]
        todo += [file for file in named if file.is_file()]


@cache
def _recipe(word: str) -> Path:
    """A configuration file by its name; told once if it is the package's."""
    return Path(find_recipes([word])[0])


def _strings(content: Any) -> Iterator[str]:
    if isinstance(content, str):
        yield content
    elif isinstance(content, Mapping):
        for value in content.values():
            yield from _strings(value)
    elif isinstance(content, list):
        for value in content:
            yield from _strings(value)


def _words(stage: CommandStage, out: Path, begun: bool) -> list[str]:
    """The command line of a stage."""
    words = stage.command.split()
    for file in stage.config:
        words += ["--config", file]
    if stage.overlay:
        overlay = out / f"{stage.name}.yaml"
        overlay.write_text(stage.overlay, encoding="utf-8")
        words += ["--config", str(overlay)]
    if stage.command == "fit":
        words += ["--trainer.default_root_dir", str(out / stage.name)]
        if begun and any((out / stage.name).glob("version_*/checkpoints/last.ckpt")):
            words += ["--ckpt_path", "last"]
    for name, value in stage.flags.items():
        words += [f"--{name}", value if isinstance(value, str) else json.dumps(value)]
    return words


def _run(words: Sequence[str]) -> int:
    """Run a command in a process of its own; a signal is passed on, once, and its end waited for."""
    child = subprocess.Popen([sys.executable, "-m", "embedrl", *words], process_group=0, env={**os.environ})
    before = {number: signal.signal(number, lambda got, _: child.send_signal(got)) for number in _SIGNALS}
    try:
        return child.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def _check_made(stage: CommandStage, how: str) -> None:
    for path in stage.makes:
        if not Path(path).exists():
            raise DataError(f"stage {stage.name} {how} {path} is not there: see stages.makes")


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    with unreadable(f"{path}: broken", "delete it, and every stage runs again"):
        state: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return {name: {"fingerprint": one["fingerprint"], "seconds": one["seconds"]} for name, one in state.items()}


def _write(path: Path, state: Mapping[str, Any]) -> None:
    with replacing(path) as part:
        part.write_text(json.dumps(state, indent=1), encoding="utf-8")
