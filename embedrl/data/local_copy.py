"""Small real data sets on this machine, put there by a script of the repository."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from embedrl.errors import DataError


@dataclass(frozen=True)
class LocalCopy:
    """One version of a data set, and where it lies.

    Attributes:
        name: Its name.
        version: Its version, which is also that of the tasks made of it.
        folder: The folder of its files below the root.
        script: The script that fetches it, for errors.
    """

    name: str
    version: str
    folder: str
    script: str = "scripts/fetch_real_small.py"

    @property
    def root(self) -> Path:
        """Where the script puts it: `$EMBEDRL_CACHE` or `~/.cache/embedrl`, then name and version."""
        cache = os.environ.get("EMBEDRL_CACHE") or Path.home() / ".cache" / "embedrl"
        return Path(cache) / f"{self.name}-{self.version.replace(':', '%3a')}"

    def find(self, root: str | None = None) -> Path:
        """The folder of its files.

        Args:
            root: Where it was put; None means where the script puts it.

        Raises:
            DataError: If it is not there.
        """
        folder = (self.root if root is None else Path(root)) / self.folder
        if not folder.is_dir():
            raise DataError(f"{folder} does not exist: run python {self.script}, or set root")
        return folder
