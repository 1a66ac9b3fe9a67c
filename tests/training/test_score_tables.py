"""Every score stands in its row under its column, and no line is wider than a terminal."""

import re

import pytest

from embedrl.training.score_tables import WIDTH, by_task, mean_table, task_tables

RETRIEVAL = {
    f"val/{t}/{m}": v / 7
    for t in ("vqa", "t2i")
    for v, m in enumerate(("hit@1", "hit@5", "hit@10", "ndcg@5", "delta_s"))
}
REPLIES = {f"val/{t}_query/{m}": 0.25 for t in ("vqa", "t2i", "doc") for m in ("answer", "format", "words")}
REPLIES |= {f"val/vqa_query/{m}": 0.125 for m in ("iou", "keyword_f1")} | {"val/doc_query/f1": 0.5}
PROBLEMS = {f"val/problem/{m}": 0.0625 for m in ("bad_json", "extra_key", "missing_tag", "no_cue", "text_outside")}
PROBLEMS |= {f"val/problem/a_rather_long_problem_{i}": 0.03125 for i in range(5)}
MANY = {f"val/{t}/metric_{i}": float(i) for t in ("a/b", "c") for i in range(30)}


def read(lines: list[str], title: str) -> dict[tuple[str, str], str]:
    """The cells of tables by row and column, read by where the columns end."""
    cells, ends = {}, []
    for line in lines:
        if line.startswith(f"  {title} "):
            ends = [(m[0], m.end()) for m in re.finditer(r"\S+", line) if m.start() >= len(title) + 2]
            continue
        name = line.split()[0]
        found = [(m[0], m.end()) for m in re.finditer(r"\S+", line)][1:]
        for text, end in found:
            (column,) = [c for c, e in ends if e == end]
            cells[name, column] = text
    return cells


@pytest.mark.parametrize("scores", [RETRIEVAL, RETRIEVAL | REPLIES, MANY], ids=["retrieval", "both", "many columns"])
def test_tasks(scores):
    lines = task_tables(by_task(scores, "val")[1], "last validation")
    assert max(map(len, lines)) <= WIDTH
    expected = {tuple(name.removeprefix("val/").rsplit("/", 1)): f"{value:.3f}" for name, value in scores.items()}
    assert read(lines, "last validation") == expected


def test_tasks_without_a_common_metric_have_tables_of_their_own():
    lines = task_tables(by_task(RETRIEVAL | REPLIES | PROBLEMS, "val")[1], "last validation")
    assert sum(line.startswith("  last validation") for line in lines) == 2
    assert max(map(len, lines)) <= WIDTH
    listed = " ".join(line.strip() for line in lines[lines.index(next(x for x in lines if "problem:" in x)) :])
    parts = dict(part.split() for part in listed.removeprefix("problem: ").split(", "))
    assert parts == {name.rpartition("/")[2]: f"{value:.3f}" for name, value in PROBLEMS.items()} | {
        f"a_rather_long_problem_{i}": "0.031" for i in range(5)
    }


def test_means_before_and_after():
    before, _ = by_task(
        {"val/hit@1": 0.25, "val/iou": 0.5, "val/gone": 1.0, "val/vqa/hit@1": 9.0, "train/loss": 3}, "val"
    )
    after, _ = by_task({"val/hit@1": 0.75, "val/iou": 0.375, "val/words": 12.0}, "val")
    head, *rows = mean_table({"step 0": before, "step 120": after})
    assert re.split(r"\s{2,}", head.strip()) == ["mean of tasks", "step 0", "step 120", "change"]
    assert [row.split() for row in rows] == [
        ["hit@1", "0.250", "0.750", "+0.500"],
        ["iou", "0.500", "0.375", "-0.125"],
        ["words", "12.000"],
        ["gone", "1.000"],
    ]
    assert rows[2].index("12.000") > rows[3].index("1.000")  # under `step 120`, under `step 0`
    assert mean_table({"test": after})[1].split() == ["hit@1", "0.750"]


def test_no_scores():
    assert by_task({"train/loss": 1.0}, "val") == ({}, {})
    assert task_tables({}, "test") == []
