"""The command line, as the benchmarks run it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def embedrl(*arguments: str, folder: Path | None = None, modules: Path | None = None) -> None:
    """Run the command line with one thread.

    Args:
        arguments: Its words.
        folder: Where to run it; None stays here.
        modules: A folder whose modules a configuration names.

    Raises:
        RuntimeError: If it fails; its last lines are the message.
    """
    command = [sys.executable, "-m", "embedrl", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    if modules is not None:
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(modules), os.environ.get("PYTHONPATH", "")]))
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} (in {folder or Path.cwd()})\n{done.stderr[-2000:]}")
