"""Where T-CoTs come from; a miss is never silent."""

import json

import pytest
import torch
from scribe import Scribe

from embedrl.errors import ConfigError, DataError
from embedrl.evaluation.tcots import TCoTOptions, TCoTs
from embedrl.tcot.parser import build, parse
from embedrl.tcot.prompts import Situation
from embedrl.tcot.store import Record, TCoTJournal, tcot_key
from embedrl.types import Modality, RetrievalTask, Side

CPU = torch.device("cpu")


def task():
    queries = [Side(text=f"query q{i}") for i in (0, 1, 2, 1)]
    return RetrievalTask("toy", queries, [Side(text=f"target t{i}") for i in range(5)], [{0: 1.0}] * 4)


def tcots(tmp_path, generator=None, **options):
    return TCoTs(TCoTOptions(**options), generator, CPU, tmp_path / "own.jsonl")


def answers(filled):
    return [parse(side.tcot, Modality.TEXT).tcot.answer for side in (*filled.queries, *filled.candidates)]


def test_a_reasoner_writes_each_side_once_and_keeps_it(tmp_path):
    scribe = Scribe()
    filled, counts = tcots(tmp_path, scribe, batch_size=3).fill(task())
    assert counts == {"cached": 0, "written": 8, "absent": 0}
    assert answers(filled) == [f"{w} by 0" for w in ("q0", "q1", "q2", "q1", "t0", "t1", "t2", "t3", "t4")]
    assert len(scribe.asked) == len(set(scribe.asked)) == 8
    lines = [json.loads(line) for line in (tmp_path / "own.jsonl").read_text().splitlines()]
    assert len(lines) == 8
    assert all(line["ok"] for line in lines)


def test_what_was_written_is_not_written_again(tmp_path):
    first = tcots(tmp_path, Scribe())
    before, _ = first.fill(task())
    first.close()
    again = Scribe()
    filled, counts = tcots(tmp_path, again).fill(task())
    assert counts == {"cached": 8, "written": 0, "absent": 0}
    assert again.asked == []
    assert answers(filled) == answers(before)


def test_an_interrupted_run_goes_on(tmp_path):
    scribe = Scribe()
    scribe.limit = 5
    first = tcots(tmp_path, scribe, batch_size=2)
    with pytest.raises(KeyboardInterrupt):
        first.fill(task())
    first.close()
    again = Scribe()
    _, counts = tcots(tmp_path, again, batch_size=2).fill(task())
    assert counts == {"cached": 4, "written": 4, "absent": 0}
    assert len(again.asked) == 4


@pytest.mark.parametrize("change", [{"generator": Scribe(seed=1)}, {"style": "brief"}, {"max_new_tokens": 7}])
def test_another_reasoner_prompt_or_length_meets_no_t_cots_from_before(change, tmp_path):
    first = tcots(tmp_path, Scribe())
    first.fill(task())
    first.close()
    generator = change.pop("generator", Scribe())
    _, counts = tcots(tmp_path, generator, **change).fill(task())
    assert counts["written"] == 8


def annotated(path, model, sides, situation):
    with TCoTJournal(path) as journal:
        for side in sides:
            text = build(Modality.TEXT, "t", "r", f"{model} on {side.text}", keywords=["x"]).render()
            journal.put(Record(tcot_key(side, situation, "full", model), text, True))


def test_the_journal_of_annotate_by_the_models_name(tmp_path):
    path, which = tmp_path / "j.jsonl", task()
    annotated(path, "vlm", which.queries, Situation.QUERY_TEXT_FOR_IMAGE)
    annotated(path, "vlm", which.candidates, Situation.TARGET_TEXT)
    annotated(path, "other", which.candidates, Situation.QUERY_TEXT_FOR_IMAGE)
    filled, counts = tcots(tmp_path, cache=path, model="vlm").fill(which)
    assert counts == {"cached": 8, "written": 0, "absent": 0}
    assert answers(filled)[0] == "vlm on query q0"
    _, counts = tcots(tmp_path, cache=path, model="other").fill(which)
    assert counts == {"cached": 0, "written": 0, "absent": 8}, "a target's T-CoT is not a query's"


def test_a_miss_leaves_the_side_without_and_is_counted(tmp_path):
    path, which = tmp_path / "j.jsonl", task()
    annotated(path, "vlm", which.candidates[:2], Situation.TARGET_TEXT)
    which = RetrievalTask("toy", [s.with_tcot("stale") for s in which.queries], which.candidates, which.qrels)
    filled, counts = tcots(tmp_path, cache=path, model="vlm").fill(which)
    assert counts == {"cached": 2, "written": 0, "absent": 6}
    assert all(side.tcot == "" for side in (*filled.queries, *filled.candidates[2:])), "not the data's own either"


def test_a_reasoner_writes_only_what_the_journal_lacks(tmp_path):
    path, which, scribe = tmp_path / "j.jsonl", task(), Scribe()
    annotated(path, "vlm", which.queries, Situation.QUERY_TEXT_FOR_IMAGE)
    filled, counts = tcots(tmp_path, scribe, cache=path, model="vlm").fill(which)
    assert counts == {"cached": 3, "written": 5, "absent": 0}
    assert answers(filled)[0] == "vlm on query q0"
    assert answers(filled)[-1] == "t4 by 0"


def test_without_journal_or_reasoner_a_task_keeps_its_own(tmp_path):
    which = task()
    assert tcots(tmp_path).fill(which) == (which, {})
    assert not (tmp_path / "own.jsonl").exists()


def test_whose_t_cots_must_be_said(tmp_path):
    (tmp_path / "j.jsonl").touch()
    with pytest.raises(ConfigError, match=r"--tcots.model: name the model"):
        tcots(tmp_path, cache=tmp_path / "j.jsonl")
    with pytest.raises(DataError, match="no such journal"):
        tcots(tmp_path, cache=tmp_path / "gone.jsonl", model="m")
    with pytest.raises(ConfigError, match=r"--tcots.batch_size is 0"):
        TCoTOptions(batch_size=0)
