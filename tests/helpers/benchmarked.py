"""Where the benchmarks lie, and what one of them recorded."""

import json
from pathlib import Path
from typing import Any

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def rows(folder: Path, name: str) -> list[dict[str, Any]]:
    """The rows of a benchmark's table, which stands beside the machine that it was measured on."""
    found = json.loads((folder / f"{name}.json").read_text())
    assert {"cpu", "threads", "packages", "git"} <= set(found["machine"])
    assert (folder / f"{name}.md").read_text().startswith("| ")
    return found["rows"]
