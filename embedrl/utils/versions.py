"""The code that made a result: the version, the commit, the packages. Written beside every result."""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import embedrl
from embedrl.errors import unreadable
from embedrl.utils.secrets import without_secrets

PACKAGE = Path(embedrl.__file__).parent
"""The folder of the package."""

_PACKAGES = ("torch", "torchvision", "lightning", "transformers", "peft", "torchmetrics", "open_clip_torch", "datasets")


def environment() -> dict[str, Any]:
    """The command, when it began, and what it ran on."""
    return {
        "command": without_secrets(sys.argv),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "embedrl": embedrl.__version__,
        "git": git_state(),
        "python": platform.python_version(),
        "packages": package_versions(),
        "platform": platform.platform(),
    }


def read_starts(path: Path) -> list[dict[str, Any]]:
    """The starts that a `provenance.json` holds; none if there is no such file.

    Raises:
        DataError: If it is broken.
    """
    if not path.is_file():
        return []
    with unreadable(f"{path}: broken", "move it away, and a new one is written"):
        starts: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["starts"]
        if not isinstance(starts, list):
            raise ValueError("its starts are no list")
    return starts


def git_state() -> dict[str, Any] | None:
    """Commit of the source tree and whether it was changed; None outside a repository."""

    def git(*args: str) -> str:
        return subprocess.run(
            ["git", "-C", str(PACKAGE), *args], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        # An installed copy may lie inside somebody else's repository: only ours tracks this file.
        git("ls-files", "--error-unmatch", "__init__.py")
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "--", "."))}
    except (FileNotFoundError, subprocess.CalledProcessError):
        return None


def package_versions() -> dict[str, str]:
    """Versions of the packages that figures depend on."""
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def source_hash(rooms: Sequence[str], root: Path = PACKAGE) -> str:
    """Hash of every Python file of some rooms of the package, those of the rooms inside them included.

    Args:
        rooms: Folders or files relative to `root`, such as `models` or `types.py`.
        root: The package's folder.

    Raises:
        FileNotFoundError: If a room does not exist: its files would silently not count.
    """
    digest = hashlib.sha256()
    for room in rooms:
        paths = [root / room] if room.endswith(".py") else sorted((root / room).rglob("*.py"))
        if not paths:
            raise FileNotFoundError(f"{root / room} holds no Python files")
        for path in paths:
            digest.update(f"{path.relative_to(root).as_posix()}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()
