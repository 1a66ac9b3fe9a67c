"""An evaluation on data with broken sides: what is good is scored, what is bad is counted and named."""

import json

import pytest
from PIL import Image
from toy_embedder import Letters, ToyBackbone

from embedrl.data.images import ImageFile
from embedrl.data.render import RenderOptions
from embedrl.errors import DataError, TooLongError, TooManyBadError
from embedrl.evaluation.run import evaluate
from embedrl.evaluation.vectors import EncodeOptions
from embedrl.types import RetrievalTask, Side

RAW = RenderOptions(tcot="none")


class Strict(Letters):
    """Refuses a long text, as models with a limit do."""

    def __call__(self, chats):
        if any(self.length(chat) > 300 for chat in chats):
            raise TooLongError("longer than max_length 300: shorten it")
        return super().__call__(chats)


class StrictBackbone(ToyBackbone):
    def preprocessor(self):
        return Strict()


MADE: dict[str, list[RetrievalTask]] = {}


class Made:
    """The tasks of a name: an evaluation's settings can be written down."""

    def __init__(self, names):
        self.names = names

    def tasks(self):
        return MADE[self.names]


def task(name, queries=(), candidates=()):
    """Six queries that look for the candidate of their number; some sides are replaced."""
    asked = [Side(f"question {'abcdef'[i] * 9}") for i in range(6)]
    pool = [Side(f"answer {'abcdef'[i] * 9}") for i in range(6)]
    for i, side in queries:
        asked[i] = side
    for i, side in candidates:
        pool[i] = side
    return RetrievalTask(name, asked, pool, [{i: 1.0} for i in range(6)])


@pytest.fixture
def sides(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    Image.effect_noise((40, 30), 90).convert("RGB").save(folder / "whole.png")
    (folder / "cut.png").write_bytes((folder / "whole.png").read_bytes()[:200])
    Image.new("RGB", (1, 300)).save(folder / "thin.png")
    return {name: Side("see", (ImageFile(f"{folder}/{name}.png"),)) for name in ("cut", "thin", "gone")} | {
        "long": Side("word " * 99)
    }


def run(out, *tasks, cache=None, **options):
    encode = EncodeOptions(cache, shard_size=4, batch_size=3, micro_batch_size=2)
    names = ", ".join(task.name for task in tasks)
    MADE[names] = list(tasks)
    evaluate(
        "own", out, backbone=StrictBackbone(), render=RAW, tasks=[Made(names)], encode=encode, device="cpu", **options
    )
    return report(out)


def report(out):
    made = json.loads((out / "report.json").read_text())
    return {one["name"]: one for one in made["sets"]}, made["missing"]


def test_bad_sides_are_left_out_counted_and_named(tmp_path, sides, capsys):
    queries = [(1, sides["gone"]), (2, sides["cut"])]
    candidates = [(3, sides["long"]), (4, sides["thin"])]
    out = tmp_path / "out"
    whole = task("whole")
    scored, missing = run(out, task("holes", queries, candidates), whole, on_bad="skip")
    holes = scored["holes"]
    assert (holes["queries"], holes["candidates"], missing) == (2, 4, {})
    assert holes["skipped"] == {
        "missing_file": 1, "broken_picture": 1, "too_long": 1, "thin_picture": 1,
        "query without a relevant candidate": 2,
    }  # fmt: skip
    assert "skipped" in scored["whole"]
    assert not scored["whole"]["skipped"]
    named = [json.loads(line) for line in (out / "skipped.jsonl").read_text().splitlines()]
    assert {(row["dataset"], row["id"], row["cause"]) for row in named} == {
        ("holes", "query 1", "missing_file"), ("holes", "query 2", "broken_picture"),
        ("holes", "candidate 3", "too_long"), ("holes", "candidate 4", "thin_picture"),
    }  # fmt: skip
    assert all(row["message"].startswith(f"holes/{row['id']}: ") for row in named)
    told = " ".join(capsys.readouterr().out.split())
    assert "holes: left out: 1 broken_picture" in told
    assert "skipped.jsonl names the 4 rows and sides left out" in told
    # The same figures as on a task that never had the bad sides; and the same again from the cache.
    good = task("holes")
    smaller = RetrievalTask(
        "holes", [good.queries[0], good.queries[5]], [good.candidates[i] for i in (0, 1, 2, 5)], [{0: 1.0}, {3: 1.0}]
    )
    alone, _ = run(tmp_path / "alone", smaller)
    assert alone["holes"]["metrics"] == holes["metrics"]
    assert alone["holes"]["data_hash"] == holes["data_hash"]
    again, _ = run(out, task("holes", queries, candidates), whole, on_bad="skip")
    assert again["holes"] == holes
    starts = json.loads((out / "provenance.json").read_text())["starts"]
    assert starts[1]["sides_embedded"] == 0
    assert len((out / "skipped.jsonl").read_text().splitlines()) == 4


def test_finished_sets_are_reported_when_a_later_one_stops_the_run(tmp_path, sides, capsys):
    out = tmp_path / "out"
    jobs = task("first"), task("second", [(2, sides["cut"])]), task("third")
    with pytest.raises(DataError, match=r"^second/query 2: .*cut\.png"):
        run(out, *jobs)
    scored, missing = report(out)
    assert list(scored) == ["first"]
    assert missing["second"].startswith("second/query 2: ")
    assert missing["third"] == "the run stopped before, at second"
    assert "first" in capsys.readouterr().out
    scored, missing = run(out, *jobs, on_bad="skip")  # the same folder goes on
    assert (list(scored), missing) == (["first", "second", "third"], {})
    assert scored["second"]["queries"] == 5


def test_a_cache_that_left_a_side_out_stops_a_run_that_leaves_none_out(tmp_path, sides):
    holes = task("holes", [(2, sides["long"])])
    run(tmp_path / "out", holes, on_bad="skip")
    other = task("other", [(2, sides["long"])])
    with pytest.raises(DataError, match=r"^other/query 2: longer than max_length 300"):
        run(tmp_path / "out2", other, cache=tmp_path / "out/vectors")


def test_a_limit_ends_the_run_with_what_was_scored(tmp_path, sides):
    out = tmp_path / "out"
    with pytest.raises(TooManyBadError, match=r"^2 bad samples, more than --max_bad 1 \(.*mend the data, or raise"):
        run(
            out,
            task("first", [(0, sides["cut"])]),
            task("second", [(2, sides["long"])]),
            on_bad="skip",
            max_bad=1,
        )
    scored, missing = report(out)
    assert list(scored) == ["first"]
    assert "max_bad 1" in missing["second"]


def test_a_set_without_a_good_query_is_missing(tmp_path, sides):
    empty = task("empty", [(i, sides["long"]) for i in range(6)])
    scored, missing = run(tmp_path / "out", task("first"), empty, on_bad="skip")
    assert list(scored) == ["first"]
    assert missing["empty"].startswith("empty: no query is left to score: 6 of 6 queries")
