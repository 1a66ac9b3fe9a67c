"""`embedrl filter`: how answers are read, what is kept, what is asked again."""

import json
import math

import pytest
from chat_server import asked_text, completion, serving
from making import lines, run, vlm, world, write_mix

from embedrl.construction.judgement import PROMPT, Judgement, JudgementStore, question, verdict_key
from embedrl.construction.vlm import weigh
from embedrl.data.world.source import WorldSource
from embedrl.errors import DataError


@pytest.mark.parametrize(
    ("answer", "p_yes", "mass", "expected"),
    [
        ("Yes", None, None, "yes"),
        (" yes. ", None, None, "yes"),
        ("**YES**", None, None, "yes"),
        ("No", None, None, "no"),
        ("no.", None, None, "no"),
        ("", None, None, "unclear"),
        ("Unclear", None, None, "unclear"),
        ("Yes, because", None, None, "unclear"),  # one word was asked for
        ("Yes", 0.4, 0.9, "no"),  # probabilities decide
        ("well", 0.6, 0.5, "yes"),
        ("Yes", 0.5, 1.0, "no"),
        ("Maybe", 0.82, 0.0007, "unclear"),  # Yes against No says nothing where the model says neither
        ("Yes", 0.9, 0.3, "unclear"),
        ("<think>", None, 0.0, "unclear"),
        ("Yes", 0.9, float("nan"), "unclear"),
    ],
)
def test_only_a_yes_leaves_a_pair_out(answer, p_yes, mass, expected):
    assert Judgement("k", answer, p_yes, mass).verdict(0.5, 0.5) == expected


@pytest.mark.parametrize(
    ("first", "p_yes", "mass"),
    [
        (None, None, None),
        ({}, None, None),
        ({"Maybe": -0.1}, None, 0),
        ({"Yes": math.log(0.3), "No": math.log(0.1), "The": math.log(0.6)}, 0.75, 0.4),
        ({" yes": math.log(0.2), "YES": math.log(0.1), "No": math.log(0.3)}, 0.5, 0.6),
        ({"No": -1e9}, None, 0),
        ({"No": math.log(0.5)}, 0.0, 0.5),
    ],
)
def test_the_probability_of_yes(first, p_yes, mass):
    answer = weigh("x", first)
    assert answer.p_yes == (p_yes if p_yes is None else pytest.approx(p_yes))
    assert answer.mass == (mass if mass is None else pytest.approx(mass))


@pytest.fixture
def mix(tmp_path):
    return write_mix(tmp_path / "mix.yaml", [world("vqa", 8, teacher="perfect"), world("t2i", 4, teacher="perfect")])


PAIRS = [WorldSource("vqa", size=8)[i] for i in range(8)]


def answer_by(pairs, bad):
    """Yes for some of the pairs, No for all others."""
    asked = {question(pairs[i])[0]["content"][0]["text"] for i in bad}
    return lambda body: "Yes" if asked_text(body) in asked else "No"


def test_kept_pairs_keep_their_order_and_the_share_is_told(tmp_path, mix, capsys):
    with serving(answer_by(PAIRS, [2, 5])) as server:
        assert run("filter", "--mix", mix, "--out", tmp_path / "kept", *vlm(server)) == 0
        assert len(server.asked) == 12
        assert {body["logprobs"] for body in server.bodies} == {True}
        told = capsys.readouterr().out
        assert run("filter", "--mix", mix, "--out", tmp_path / "kept", *vlm(server)) == 0
        assert len(server.asked) == 12
        assert run("filter", "--mix", mix, "--out", tmp_path / "kept", *vlm(server, model="other")) == 0
        assert len(server.asked) == 24
    assert "6/8" in told
    assert "75.00 %" in told
    assert "conflict 2" in told
    kept = [row["id"] for row in lines(tmp_path / "kept" / "world_vqa.jsonl")]
    assert kept == [pair.id for i, pair in enumerate(PAIRS) if i not in (2, 5)]
    left_out = lines(tmp_path / "kept" / "left_out.jsonl")
    assert [(row["id"], row["cause"]) for row in left_out] == [(PAIRS[i].id, "conflict") for i in (2, 5)]
    assert (tmp_path / "kept" / "world_vqa.jsonl").read_text().count("tcot") == 12


def test_what_the_judge_reads():
    text = question(PAIRS[0])[0]["content"][0]["text"]
    for part in (PAIRS[0].query.text, PAIRS[0].query.tcot, PAIRS[0].target.text, PAIRS[0].target.tcot, "Yes or No"):
        assert part in text
    assert "[picture]" in text
    other = PAIRS[0].target.with_tcot("another")
    keys = {verdict_key(pair, "m") for pair in (PAIRS[0], PAIRS[1])} | {verdict_key(PAIRS[0], "n")}
    assert len(keys | {verdict_key(type(PAIRS[0])(PAIRS[0].query, other, "d", "i"), "m")}) == 4


def test_probabilities_decide_where_the_endpoint_gives_them(tmp_path, mix):
    tops = [{"token": "Yes", "logprob": math.log(0.3)}, {"token": "No", "logprob": math.log(0.7)}]
    logprobs = {"content": [{"token": "No", "logprob": math.log(0.7), "top_logprobs": tops}]}
    with serving(lambda body: completion("No", logprobs=logprobs)) as server:
        assert run("filter", "--mix", mix, "--out", tmp_path / "a", *vlm(server)) == 0
        assert run("filter", "--mix", mix, "--out", tmp_path / "b", *vlm(server), "--threshold", 0.25) == 1
    with JudgementStore(tmp_path / "a" / "verdicts.jsonl", read_only=True) as store:
        assert {round(verdict.p_yes, 6) for verdict in store.records()} == {0.3}
    assert json.loads((tmp_path / "b" / "report.json").read_text())["world/vqa"]["left_out"] == {"conflict": 8}


UNSURE = {"Maybe": 0.9, "Yes": 0.00057, "No": 0.00013}


@pytest.mark.parametrize(
    ("words", "tops", "counts"),
    [
        (["Maybe"], [UNSURE], (8, 8)),
        (["<think>", "\n", "Let"], [{"<think>": 1.0}, {}, {}], (8, 8)),
        (["**", "Yes", "**"], [{"**": 0.9}, {"Yes": 0.8, "No": 0.1}, {}], (0, 0)),  # marks come before the word
        (["\n\n", "No"], [{"\n\n": 1.0}, {"Yes": 0.1, "No": 0.8}], (8, 0)),
        (["Yes"], [{}], (0, 0)),  # an endpoint that gives no probabilities after all
    ],
)
def test_probabilities_count_where_yes_and_no_hold_most_of_them(tmp_path, words, tops, counts):
    mix = write_mix(tmp_path / "mix.yaml", [world("vqa", 8, teacher="perfect")])
    content = [
        {"token": word, "top_logprobs": [{"token": t, "logprob": math.log(p)} for t, p in top.items()]}
        for word, top in zip(words, tops, strict=True)
    ]
    kept, _ = counts
    with serving(lambda body: completion("".join(words), logprobs={"content": content})) as server:
        flags = [*vlm(server), "--max_unclear", 1]
        assert run("filter", "--mix", mix, "--out", tmp_path / "kept", *flags) == (0 if kept else 1)
        report = json.loads((tmp_path / "kept" / "report.json").read_text())["world/vqa"]
        assert (report["kept"], report["unclear"]) == counts
        if tops == [UNSURE]:  # the answers are kept, so that another limit needs no new ones
            asked = len(server.asked)
            assert run("filter", "--mix", mix, "--out", tmp_path / "kept", *flags, "--min_mass", 0) == 1
            assert len(server.asked) == asked
            report = json.loads((tmp_path / "kept" / "report.json").read_text())["world/vqa"]
            assert (report["kept"], report["unclear"]) == (0, 0)


def test_other_options_and_another_prompt_ask_again(tmp_path, monkeypatch):
    mix = write_mix(tmp_path / "mix.yaml", [world("vqa", 2, teacher="perfect")])

    def asked(**options):
        before = len(server.asked)
        assert run("filter", "--mix", mix, "--out", tmp_path / "kept", *vlm(server, **options)) == 0
        return len(server.asked) - before

    with serving(lambda body: "No") as server:
        assert [asked(), asked(timeout=9), asked(temperature=0.5)] == [2, 0, 2]
        monkeypatch.setattr("embedrl.construction.judgement.PROMPT", PROMPT.replace("Judge", "Say"))
        assert asked() == 2


def test_unclear_answers_are_kept_and_counted(tmp_path, mix, capsys):
    with serving(lambda body: "hard to say" if "star" in asked_text(body) else "No") as server:
        assert run("filter", "--mix", mix, "--out", tmp_path / "kept", *vlm(server), "--max_unclear", 1) == 0
    report = json.loads((tmp_path / "kept" / "report.json").read_text())["world/vqa"]
    assert (report["kept"], report["left_out"]) == (8, {})
    assert 0 < report["unclear"] < 8
    assert f"(kept, but unclear: {report['unclear']})" in capsys.readouterr().out


def test_a_judge_that_judges_nothing_stops_the_run(tmp_path, capsys):
    mix = write_mix(tmp_path / "mix.yaml", [world("vqa", 40, teacher="perfect")])
    with serving(lambda body: "I am a parrot") as server:
        assert run("filter", "--mix", mix, "--out", tmp_path / "kept", *vlm(server, concurrency=2)) == 1
        assert len(server.asked) < 30
    error = capsys.readouterr().err
    for part in (server.url, "neither Yes nor No", "parrot", "--max_unclear"):
        assert part in error


def test_cheap_checks_alone_ask_nobody(tmp_path):
    mix = write_mix(tmp_path / "mix.yaml", [world("vqa", 3, teacher="perfect"), world("t2i", 3, teacher="none")])
    assert run("filter", "--mix", mix, "--out", tmp_path / "kept") == 0
    report = json.loads((tmp_path / "kept" / "report.json").read_text())
    assert (report["world/vqa"]["kept"], report["world/t2i"]["left_out"]) == (3, {"no_tcot": 3})
    assert "t2i" not in (tmp_path / "kept" / "mix.yaml").read_text()


def test_no_answer_stops_or_is_counted(tmp_path, mix, capsys):
    bad = question(PAIRS[3])[0]["content"][0]["text"]
    with serving(lambda body: (500, "x") if asked_text(body) == bad else "No") as server:
        assert run("filter", "--mix", mix, "--out", tmp_path / "kept", *vlm(server, retries=0)) == 1
        assert "http_500" in capsys.readouterr().err
        words = ["--on_bad", "skip", *vlm(server, retries=0)]
        assert run("filter", "--mix", mix, "--out", tmp_path / "kept", *words) == 0
    report = json.loads((tmp_path / "kept" / "report.json").read_text())
    assert report["world/vqa"]["left_out"] == {"http_500": 1}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--threshold", 2], "--threshold"),
        (["--checks", '["spelling"]'], "spelling"),
        (["--max_unclear", -1], "--max_unclear"),
        (["--min_mass", 1.5], "--min_mass"),
    ],
)
def test_wrong_flags(tmp_path, mix, words, told, capsys):
    assert run("filter", "--mix", mix, "--out", tmp_path / "kept", *words) == 2
    assert told in capsys.readouterr().err


def test_a_step_never_overwrites_what_it_reads(tmp_path, mix, capsys):
    assert run("filter", "--mix", mix, "--out", tmp_path / "kept") == 0
    assert run("filter", "--mix", tmp_path / "kept" / "mix.yaml", "--out", tmp_path / "kept") == 2
    assert "give another" in capsys.readouterr().err


def test_a_broken_verdict_is_named(tmp_path):
    (tmp_path / "v.jsonl").write_text('{"key": "k", "answer": 3, "p_yes": null}\n')
    with pytest.raises(DataError, match=r"v\.jsonl: line 1: not a verdict"):
        JudgementStore(tmp_path / "v.jsonl")
