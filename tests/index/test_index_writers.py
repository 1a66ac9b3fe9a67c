"""Adding survives what processes meet: SIGKILL at any moment, and each other."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("lancedb")
HELPERS = Path(__file__).parents[1] / "helpers"
ITEMS, BATCH = 160, 8


def run(task, folder):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{HELPERS.parents[1]}:{HELPERS}"}
    command = [sys.executable, str(HELPERS / "index_writers.py"), task, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
def test_a_killed_add_goes_on_where_it_was(tmp_path):
    seen = run("kills", tmp_path)
    assert (seen["whole"]["added"], seen["whole"]["embedded"]) == (ITEMS, ITEMS)
    *killed, last = seen["runs"]
    assert sum(0 < len(one["rows"]) < ITEMS for one in killed if isinstance(one["rows"], list)) >= 3
    before = set()
    for one in seen["runs"]:
        lengths = set(one["embedded"])
        assert len(lengths) == len(one["embedded"])
        assert not lengths & before  # nothing that was written is embedded again
        if isinstance(one["rows"], str):
            assert "no index there" in one["rows"]  # killed before the table was
            continue
        present = {row["number"] + 2 for row in one["rows"]}
        assert before <= present
        assert len(lengths - present) <= BATCH  # the batch in flight
        before = present
    plain = [{**row, "relative_files": None} for row in seen["plain"]]
    assert [{**row, "relative_files": None} for row in last["rows"]] == plain


@pytest.mark.slow
def test_two_writers_make_one_row_of_a_content(tmp_path):
    seen = run("race", tmp_path)
    numbers = [row["number"] for row in seen["rows"]]
    assert numbers == list(range(ITEMS))
    assert sum(one["added"] for one in seen["added"]) == ITEMS
    assert {"a", "b"} <= set(seen["rows"][0])
    assert all(row["a"] == 1 or row["b"] == 1 for row in seen["rows"])
