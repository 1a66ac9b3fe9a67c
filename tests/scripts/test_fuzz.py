"""A small fuzz of every border in the default run, a longer one among the slow tests; `scripts/fuzz.py` runs on."""

import json
import time

import fuzz
import pytest
from fuzzing.harness import BoundError, run_round
from fuzzing.targets import TARGETS

from embedrl.errors import DataError

SMALL = {"configs": 2, "servers": 4}  # these take longest


def run(target, seed, cases, seconds=300.0):
    return run_round(target.__name__, target, seed, cases, time.monotonic() + seconds, set())


@pytest.mark.parametrize("name", TARGETS)
def test_a_few_inputs_are_refused_in_one_line(name):
    done = run(TARGETS[name], 1, SMALL.get(name, 8))
    assert done.cases >= SMALL.get(name, 8)
    assert not done.findings, done.findings


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_many_inputs_are_refused_in_one_line(name):
    done = run(TARGETS[name], 7, 400, 15)
    assert done.cases > 20
    assert not done.findings, done.findings


def traps(data, folder):
    number = data.draw(fuzz_numbers(), label="number")
    if number == 5:
        raise DataError("refused")
    if number > 40:
        raise KeyError(number)
    if number > 20:
        raise BoundError("took too long")


def fuzz_numbers():
    from hypothesis import strategies as st

    return st.integers(0, 100)


def test_findings_come_with_their_smallest_input_and_again_with_their_seed():
    one, again = (run(traps, 3, 60) for _ in range(2))
    kinds = {finding.place.split()[0]: finding for finding in one.findings}
    assert kinds.keys() == {"KeyError", "BoundError"}
    assert "Draw 1 (number): 41" in kinds["KeyError"].example
    assert kinds["KeyError"].seed == 3
    assert one.refused > 0
    assert [(f.place, f.example) for f in one.findings] == [(f.place, f.example) for f in again.findings]


def test_the_command_reports_seeds_and_cases(capsys):
    assert fuzz.main(["--targets", "pdfs", "--seed", "5", "--rounds", "2", "--cases", "4", "--minutes", "1"]) == 0
    target, total = map(json.loads, capsys.readouterr().out.splitlines())
    assert target["seeds"] == [5, 6]
    assert target["cases"] == total["cases"] >= 8
    assert total["findings"] == 0
