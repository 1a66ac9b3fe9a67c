"""`embedrl annotate` where something fails: one line says what, and nothing that was answered is lost."""

import json
import threading
import time

import pytest
from chat_server import asked_text, completion, serving, valid_tcot
from full_disk import files_up_to
from making import annotate, lines, released, run, source, vlm, world, write_mix

from embedrl.tcot.store import TCoTJournal


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "hf")


@pytest.mark.parametrize(
    ("reply", "cause"),
    [
        (lambda body: (500, "boom"), "http_500"),
        (lambda body: (400, "too long"), "http_400"),
        (lambda body: b"<html>", "malformed"),
        (lambda body: {"choices": []}, "malformed"),
        (lambda body: completion(None), "malformed"),
    ],
)
def test_no_answer_is_one_error_or_a_counted_failure(tmp_path, reply, cause, capsys):
    def some(body):
        return reply(body) if "above" in asked_text(body) else valid_tcot(body)

    mix = write_mix(tmp_path / "mix.yaml", [world("vqa", 12)])
    with serving(some) as server:
        assert annotate(mix, server, tmp_path / "out", retries=1, concurrency=1) == 1
        error = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
        assert len(error) == 1
        for part in (server.url, cause, "what was answered is kept"):
            assert part in error[0]
        assert annotate(mix, server, tmp_path / "out", "--on_bad", "skip", retries=0) == 0
        report = json.loads((tmp_path / "out" / "report.json").read_text())["world/vqa"]
        bad = report["left_out"][cause]
        assert report["left_out"] == {cause: bad}
        assert report["annotated"] == 12 - bad
        assert 0 < bad < 12
        # What had no answer is no T-CoT: the next run asks again, and only for that.
        before = len(server.asked)
        server.reply = valid_tcot
        assert annotate(mix, server, tmp_path / "out") == 0
        assert len(server.asked) - before == bad
        assert json.loads((tmp_path / "out" / "report.json").read_text())["world/vqa"]["annotated"] == 12


@pytest.mark.parametrize(("on_bad", "asked"), [("raise", 1), ("skip", 5)])
def test_a_dead_endpoint_ends_with_one_error_and_keeps_everything(tmp_path, on_bad, asked, capsys):
    mix = write_mix(tmp_path / "mix.yaml", [world("vqa", 20)])
    gate = threading.Event()
    with serving(lambda body: (503, "down") if gate.is_set() else valid_tcot(body)) as server:
        annotate(write_mix(tmp_path / "few.yaml", [world("vqa", 3)]), server, tmp_path / "out")
        gate.set()
        before = len(server.asked)
        options = ("--on_bad", on_bad, "--patience", 5)
        assert annotate(mix, server, tmp_path / "out", *options, retries=0, concurrency=1) == 1
        assert len(server.asked) - before == asked
    capsys.readouterr()
    assert annotate(mix, server, tmp_path / "out", *options, retries=0) == 1
    (error,) = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    assert "unreachable" in error
    assert "check that the server runs" in error
    with TCoTJournal(tmp_path / "out" / "tcots.jsonl", read_only=True) as journal:
        assert len(journal) == 6


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_wrong_key_or_model_stops_at_once_even_when_skipping(tmp_path, status):
    with serving(lambda body: (status, "no")) as server:
        mix = write_mix(tmp_path / "mix.yaml", [world("vqa", 20)])
        assert annotate(mix, server, tmp_path / "out", "--on_bad", "skip", concurrency=1) == 1
    assert len(server.asked) == 1


def test_broken_rows_and_pictures(tmp_path, capsys):
    mix = released(tmp_path, rows=4)
    root = tmp_path / "data"
    (root / "images/1.png").unlink()
    (root / "images/2.png").write_bytes((root / "images/2.png").read_bytes()[:40])
    rows = json.loads((root / "mmeb.json").read_text())
    rows[3] = {"qry": 1}
    (root / "mmeb.json").write_text(json.dumps(rows))
    with serving(valid_tcot) as server:
        assert annotate(mix, server, tmp_path / "out", concurrency=1) == 1
        (error,) = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
        assert "images/1.png" in error
        assert annotate(mix, server, tmp_path / "out", "--on_bad", "skip", "--max_bad", 2, concurrency=1) == 1
        (error,) = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
        assert "3 bad samples, more than --max_bad 2 (" in error
        assert len(lines(tmp_path / "out/skipped.jsonl")) == 3
        kept = len(server.asked)
        assert len(lines(tmp_path / "out/tcots.jsonl")) == kept > 0
        assert annotate(mix, server, tmp_path / "out", "--on_bad", "skip") == 0
        assert len(set(server.asked)) == len(server.asked)  # nothing that was answered is asked again
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["mmeb"]["left_out"] == {"broken_row": 1, "missing_file": 1, "broken_picture": 1}
    assert report["own"]["left_out"] == {"missing_file": 1, "broken_picture": 1}
    assert report["hound"]["annotated"] == 4
    told = {(row["dataset"], row["id"]): row for row in lines(tmp_path / "out" / "left_out.jsonl")}
    assert "images/2.png" in told["mmeb", "2"]["detail"]
    assert "mmeb/3" in told["mmeb", "row 3"]["detail"]


@pytest.mark.parametrize("why", ["broken row", "broken picture", "no answer"])
def test_requests_under_way_end_before_the_run_does(tmp_path, why, capsys):
    """They are paid for: the run that goes on must not ask them again."""
    mix = released(tmp_path, rows=4)
    root = tmp_path / "data"
    rows = json.loads((root / "mmeb.json").read_text())
    if why == "broken row":
        rows[3] = {"qry": 1}
        (root / "mmeb.json").write_text(json.dumps(rows))
    elif why == "broken picture":
        (root / "images/3.png").write_bytes(b"no picture")
    stopping, refuse = threading.Event(), why == "no answer"

    def slow(body):
        if refuse and "thing 3" in asked_text(body):
            return 400, "too long"
        stopping.wait(30)
        return valid_tcot(body)

    def ended():
        """Let the server answer once the run says that it stops."""
        told = ""
        while "stops once" not in told:
            told += capsys.readouterr().err
            time.sleep(0.05)
        stopping.set()

    with serving(slow) as server:
        watch = threading.Thread(target=ended, daemon=True)
        watch.start()
        skip = ("--on_bad", "skip", "--max_bad", 0) if why == "broken row" else ()
        assert annotate(mix, server, tmp_path / "out", *skip, concurrency=8) == 1
        watch.join()
        assert len(lines(tmp_path / "out/tcots.jsonl")) == len(server.asked) - refuse > 0
        refuse = False
        assert annotate(mix, server, tmp_path / "out", "--on_bad", "skip") == 0
        assert len(server.asked) - len(set(server.asked)) == (why == "no answer")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--attempts", "0"], "--attempts 0"),
        (["--caps.image", "0"], "--caps.image 0"),
        (["--style", "terse"], "--style"),
        (["--on_baad", "skip"], "did you mean --on_bad?"),
        (["--mix", "no.yaml"], "no.yaml"),
    ],
)
def test_wrong_flags(tmp_path, words, told, capsys):
    mix = write_mix(tmp_path / "mix.yaml", [world("vqa", 1)])
    code = run("annotate", "--mix", mix, "--out", tmp_path / "out", *vlm("http://127.0.0.1:1/v1"), *words)
    error = capsys.readouterr().err
    assert (code, len(error.splitlines())) == (2, 1)
    assert told in error


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"base_url": "localhost"}, "vlm.base_url"),
        ({"timeout": 0}, "vlm.timeout"),
        ({"max_tokens": 0}, "vlm.max_tokens"),
    ],
)
def test_wrong_options_of_the_endpoint(tmp_path, options, told, capsys):
    mix = write_mix(tmp_path / "mix.yaml", [world("vqa", 1)])
    assert run("annotate", "--mix", mix, "--out", tmp_path / "out", *vlm("http://127.0.0.1:1/v1", **options)) == 2
    assert told in capsys.readouterr().err


@pytest.mark.parametrize("on_bad", ["raise", "skip"])
def test_a_full_disk_stops_at_once_and_keeps_what_was_answered(tmp_path, on_bad, capsys):
    mix = write_mix(tmp_path / "mix.yaml", [world("vqa", 20)])
    with serving(valid_tcot) as server:
        annotate(write_mix(tmp_path / "few.yaml", [world("vqa", 3)]), server, tmp_path / "out")
        before, size = len(server.asked), (tmp_path / "out" / "tcots.jsonl").stat().st_size
        with files_up_to(size + 100):
            code = annotate(mix, server, tmp_path / "out", "--on_bad", on_bad, concurrency=1)
        assert len(server.asked) - before <= 2
    (error,) = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    assert code == 1
    assert "tcots.jsonl: cannot be written" in error
    assert "make room" in error
    with TCoTJournal(tmp_path / "out" / "tcots.jsonl") as journal:
        assert len(journal) == 6


@pytest.mark.parametrize("name", ["tcots", "left_out", "verdicts"])
def test_a_data_set_is_never_written_over_a_journal(tmp_path, name, capsys):
    rows = tmp_path / "set.jsonl"
    rows.write_text(json.dumps({"id": "1", "query": {"text": "q"}, "target": {"text": "t"}}) + "\n")
    mix = write_mix(tmp_path / "mix.yaml", [source("embedrl.data.JsonlSource", path=str(rows), dataset=name)])
    assert annotate(mix, "http://127.0.0.1:1/v1", tmp_path / "out") in (1, 2)
    assert f"would both be written to {name}: rename one" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_two_runs_on_one_journal_are_refused(tmp_path, capsys):
    mix = write_mix(tmp_path / "mix.yaml", [world("vqa", 1)])
    with TCoTJournal(tmp_path / "out" / "tcots.jsonl"):
        assert annotate(mix, "http://127.0.0.1:1/v1", tmp_path / "out") == 1
    assert "another process writes to it" in capsys.readouterr().err
