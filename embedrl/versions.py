"""Which code made a result: the version, the commit, the packages. Written beside every result."""

from __future__ import annotations

import hashlib
import platform
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import embedrl

_PACKAGES = ("torch", "torchvision", "lightning", "transformers", "peft", "torchmetrics", "open_clip_torch", "datasets")


def environment() -> dict[str, Any]:
    """The command, when it began, and what it ran on."""
    return {
        "command": sys.argv,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "embedrl": embedrl.__version__,
        "git": git_state(),
        "python": platform.python_version(),
        "packages": package_versions(),
        "platform": platform.platform(),
    }


def git_state() -> dict[str, Any] | None:
    """Commit of the source tree and whether it was changed; None outside a repository."""
    here = Path(embedrl.__file__).parent

    def git(*args: str) -> str:
        return subprocess.run(
            ["git", "-C", str(here), *args], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        # An installed copy may lie inside somebody else's repository: only ours tracks this file.
        git("ls-files", "--error-unmatch", "__init__.py")
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "--", "."))}
    except (FileNotFoundError, subprocess.CalledProcessError):
        return None


def package_versions() -> dict[str, str]:
    """Versions of the packages that figures depend on."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def source_hash(folders: Sequence[str]) -> str:
    """Hash of the Python files that lie directly in some folders of the package.

    Args:
        folders: Relative to the package, such as `models`.
    """
    digest = hashlib.sha256()
    for path in sorted(path for folder in folders for path in (Path(embedrl.__file__).parent / folder).glob("*.py")):
        digest.update(f"{path.parent.name}/{path.name}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()
