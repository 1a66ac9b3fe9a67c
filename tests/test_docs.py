"""The documentation is true: its snippets run, and what it names exists."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from embedrl.cli import main

ROOT = Path(__file__).parents[1]
SNIPPET = re.compile(r"```(?:python|yaml)\n# (my_\S+)\n(.*?)```", re.DOTALL)


def test_extending_snippets_train_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snippets = SNIPPET.findall((ROOT / "docs" / "extending.md").read_text(encoding="utf-8"))
    assert {name for name, _ in snippets} == {
        "my_package/backbone.py",
        "my_package/data.py",
        "my_package/loss.py",
        "my_package/metric.py",
        "my_recipe.yaml",
    }
    for name, text in snippets:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
        if name.endswith(".py"):
            tail = text[text.index("class ") :]
            assert len(tail.strip().splitlines()) <= 32, f"{name} is no longer short"
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    assert main(["fit", "--config", "my_recipe.yaml"]) == 0
    assert list((tmp_path / "runs").rglob("*.ckpt"))
    assert {"hit@1", "margin@2"} <= {key.rpartition("/")[2] for key in logged_names(tmp_path / "runs")}
    for name in [module for module in sys.modules if module.startswith("my_package")]:
        del sys.modules[name]


def logged_names(runs: Path) -> set[str]:
    """Names of the curves in TensorBoard."""
    names = set()
    for file in runs.rglob("events*"):
        events = EventAccumulator(str(file))
        events.Reload()
        names |= set(events.Tags()["scalars"])
    return names


@pytest.mark.parametrize("page", ["method.md"])
def test_pages_name_tests_that_exist(page: str) -> None:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    names = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", text)
    assert names
    for path, test in names:
        source = (ROOT / path).read_text(encoding="utf-8")
        assert not test or f"def {test}(" in source, f"{page} names {path}::{test}, which is gone"


def test_relative_links_lead_somewhere() -> None:
    links = 0
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+?)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
            links += 1
    assert links
