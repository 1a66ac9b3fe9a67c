"""`embedrl recipes`: the recipes that come with the package, and how a command finds them."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import embedrl
from embedrl.errors import ConfigError

_FOLDER = "configs"


def recipes_folder() -> Path:
    """The folder `configs` of this installation: inside an installed package, beside the package in a source tree.

    Raises:
        ConfigError: If there is none.
    """
    package = Path(embedrl.__file__).parent
    for folder in (package / _FOLDER, package.parent / _FOLDER):
        if folder.is_dir():
            return folder
    raise ConfigError(f"{package}: no recipes come with this installation; install embedrl again from its wheel")


def find_recipes(words: Sequence[str]) -> list[str]:
    """Replace each word that names a recipe of the package, and nothing here, by the path of that recipe.

    Such a word is a path that begins with `configs/` and ends with `.yaml`, alone or behind `--flag=`. A file of that
    name in the working folder always comes first. Each replacement is told in one line on stderr.

    Args:
        words: The words of a command line.

    >>> find_recipes(["--config", "mine.yaml"])
    ['--config', 'mine.yaml']
    """
    return [_find(word) for word in words]


def _find(word: str) -> str:
    flag, equals, path = word.rpartition("=") if word.startswith("--") else ("", "", word)
    if not (path.startswith(f"{_FOLDER}/") and path.endswith(".yaml")) or Path(path).exists():
        return word
    recipe = recipes_folder().parent / path
    if not recipe.is_file():
        return word  # the parser says that there is no such file
    if os.environ.get("LOCAL_RANK", "0") == "0":
        sys.stderr.write(f"embedrl: {path} is not in this folder; taking {recipe}, which comes with the package\n")
    return f"{flag}{equals}{recipe}"


def recipes(out: Path | None = None) -> None:
    """List the recipes that come with the package, or copy them into a folder to edit them.

    A command takes a path that begins with `configs/` from the working folder; where there is no such file, from the
    package. So `embedrl recipes --out configs` makes every recipe yours to edit, under the same names.

    Args:
        out: The folder to write; must be new or empty. Without it the recipes are listed.

    Raises:
        ConfigError: If `out` holds something already.
    """
    folder = recipes_folder()
    if out is None:
        names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.yaml"))
        sys.stdout.write("".join(f"{_FOLDER}/{name}\n" for name in names))  # at once, for `embedrl recipes | head`
        return
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"--out {out}: already there; give a new folder")
    shutil.copytree(folder, out, dirs_exist_ok=True)
    sys.stdout.write(f"Wrote {out}: {sum(1 for _ in out.rglob('*.yaml'))} files\n")
