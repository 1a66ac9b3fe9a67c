"""T-CoTs searched for at test time: what must equal greedy does, and what is kept depends on no label."""

import json
import zlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from embedrl.cli import main
from embedrl.data.render import RenderOptions
from embedrl.data.world import WorldTasks
from embedrl.errors import ConfigError, DataError
from embedrl.evaluation.judged_choice import agreements
from embedrl.evaluation.search_options import SearchOptions
from embedrl.evaluation.tcots import TCoTOptions, TCoTs
from embedrl.evaluation.vectors import VectorCache
from embedrl.inference.step_model import StepModel
from embedrl.models.qwen_vl.backbone import QwenVLBackbone
from embedrl.models.qwen_vl.reasoner import QwenVLReasoner
from embedrl.rl.rewards.judge import Verdict
from embedrl.types import Side

CPU = torch.device("cpu")
CONFIGS = Path(__file__).parents[2] / "configs"


class Numbers:
    """A judge that takes the candidate whose notes hold the number that the query's notes hold."""

    name = "numbers"

    def choose(self, questions):
        verdicts = []
        for question in questions:
            _, _, rest = question.prompt.partition("Notes on the search query: ")
            query, *notes = rest.split("\n\n")[: question.choices + 1]
            hits = [i for i, note in enumerate(notes) if query in note]
            verdicts.append(Verdict(hits[0]) if hits else Verdict(None, "unreadable"))
        return verdicts


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"samples": 0}, "searching.samples is 0"),
        ({"rounds": 0}, "searching.rounds is 0"),
        ({"temperature": -1.0}, "searching.temperature is -1.0"),
        ({"top_p": 0.0}, "searching.top_p is 0.0"),
        ({"choose": "judge"}, "give both or neither"),
        ({"judge": Numbers()}, "give both or neither"),
        ({"choose": "step_model"}, "give --tcots.searching.step_model"),
    ],
)
def test_wrong_options(options, told):
    with pytest.raises(ConfigError, match=told):
        SearchOptions(**options)


def test_a_search_needs_a_reasoner_that_draws(tmp_path):
    with pytest.raises(ConfigError, match=r"--tcots.search mcts: give --reasoner"):
        TCoTs(TCoTOptions(search="mcts"), None, CPU, tmp_path / "j.jsonl")


def test_a_judge_is_asked_about_what_the_vector_retrieved():
    options = [Side("find it", tcot=f"n{i}") for i in range(3)]
    retrieved = [[Side(tcot=f"n{k}") for k in order] for order in ([0, 5, 6], [5, 1, 6], [5, 6, 7])]
    for seed in range(4):
        assert agreements(Numbers(), options, retrieved, "toy/query 0", seed) == [1.0, 0.0, -1.0]
    with pytest.raises(DataError, match=r"toy/query 0: the judge numbers had no verdict on any of 1 T-CoTs"):
        agreements(Numbers(), options[2:], retrieved[2:], "toy/query 0", 0)


@pytest.fixture(scope="module")
def models():
    torch.manual_seed(0)
    backbone, reasoner = QwenVLBackbone("embedrl:tiny"), QwenVLReasoner("embedrl:tiny")
    for model in (backbone, reasoner):
        model.build()
    return backbone, reasoner


@pytest.fixture(scope="module")
def task():
    [made] = WorldTasks(split="val", size=3, families=["vqa"], teacher="none").tasks()
    return made


def filled(folder, models, task, **options):
    backbone, reasoner = models
    lenient = RenderOptions(on_bad_tcot="lenient")
    vectors = VectorCache(folder / "vectors", backbone, lenient, CPU)
    how = TCoTOptions(style="brief", max_new_tokens=6, batch_size=4, **options)
    writer = TCoTs(how, reasoner, CPU, folder / "j.jsonl", vectors=vectors)
    try:
        made, counts = writer.fill(task)
    finally:
        writer.close()
    return [side.tcot for side in (*made.queries, *made.candidates)], counts


@pytest.mark.slow
def test_searches_that_have_no_choice_are_greedy(tmp_path, models, task):
    greedy, counts = filled(tmp_path / "a", models, task)
    assert counts["written"] == len(greedy)
    for mode, how in [
        ("best_of_n", {"samples": 1, "temperature": 0.0}),
        ("best_of_n", {"samples": 3, "temperature": 0.0, "choose": "delta_s"}),
        ("mcts", {"branches": 1}),
    ]:
        made, _ = filled(tmp_path / "a", models, task, search=mode, searching=SearchOptions(**how))
        assert made == greedy, mode


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "how"),
    [
        ("best_of_n", SearchOptions(samples=3)),
        ("best_of_n", SearchOptions(samples=3, choose="delta_s")),
        ("mcts", SearchOptions(branches=2, rounds=2)),
    ],
)
def test_a_seed_decides_and_labels_do_not(tmp_path, models, task, mode, how):
    first, counts = filled(tmp_path / "a", models, task, search=mode, searching=how)
    assert counts["tokens"] > counts["written"]
    again = replace(task, qrels=[{(i + 1) % 3: 1.0} for i in range(3)])
    assert filled(tmp_path / "b", models, again, search=mode, searching=how)[0] == first
    cached, counted = filled(tmp_path / "a", models, task, search=mode, searching=how)
    assert cached == first
    assert counted == {"cached": len(first), "written": 0, "absent": 0, "tokens": counts["tokens"]}
    other, counted = filled(tmp_path / "a", models, task, search=mode, searching=replace(how, seed=1))
    assert counted["written"] > 0
    assert other[:3] != first[:3]


@pytest.mark.slow
def test_best_of_n_by_delta_s_is_best(tmp_path, models, task):
    """The T-CoT that is kept has the greatest gap of all that were drawn, computed one by one."""
    how = SearchOptions(samples=4, choose="delta_s")
    made, _ = filled(tmp_path, models, task, search="best_of_n", searching=how)
    from embedrl.inference.frozen_embedder import FrozenEmbedder
    from embedrl.inference.section_writer import SectionWriter
    from embedrl.inference.tcot_writer import tcot_requests
    from embedrl.tcot.chat import reasoning_chat
    from embedrl.tcot.store import content_hash

    backbone, reasoner = models
    embedder, writer = FrozenEmbedder(backbone), SectionWriter(reasoner, CPU, 4, 6)
    pool = [side.with_tcot(text) for side, text in zip(task.candidates, made[3:], strict=True)]
    candidates = embedder.embed(pool, ["c"] * len(pool), CPU)
    requests = {key: item for key, item in tcot_requests([task]).items() if item.role == "query"}
    kept = {side.key: text for side, text in zip(task.queries, made[:3], strict=True)}
    for key, item in requests.items():
        rows = reasoner.preprocessor().prompt_rows([reasoning_chat(item.side, item.role, item.counterpart, "brief")])
        [drafts] = writer.whole(rows, [f"{content_hash(item.side)}/{key[1]}"], 4)
        vectors = embedder.embed([item.side.with_tcot(d.text) for d in drafts], ["q"] * 4, CPU)
        scores = (vectors @ candidates.T).sort(descending=True).values
        assert kept[item.side.key] == drafts[int((scores[:, 0] - scores[:, 1]).argmax())].text


class Liking(StepModel):
    """Values a T-CoT by a hash of it, far above any gap."""

    def values(self, sides, names):
        self.seen = getattr(self, "seen", {})
        out = [100 * (zlib.crc32(side.tcot.encode()) % 1000) for side in sides]
        for side, value in zip(sides, out, strict=True):
            self.seen.setdefault(side.with_tcot("").key, {})[side.tcot] = value
        return out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "how"),
    [("best_of_n", {"samples": 4, "choose": "step_model"}), ("mcts", {"branches": 4, "rounds": 1})],
)
def test_what_a_step_model_likes_best_is_kept(tmp_path, models, task, mode, how):
    """For queries alone: candidates keep their likeliest T-CoT. Six tokens are a T-CoT that is finished."""
    step_model = Liking(models[1], style="brief")
    how = SearchOptions(**how, step_model=step_model)
    made, _ = filled(tmp_path / "a", models, task, search=mode, searching=how)
    for side, text in zip(task.queries, made, strict=False):
        seen = step_model.seen[side.with_tcot("").key]
        assert len(seen) > 1
        assert seen[text] == max(seen.values())
    greedy, _ = filled(tmp_path / "b", models, task)
    assert made[3:] == greedy[3:]
    assert len(step_model.seen) == len({side.key for side in task.queries})
    cached, counted = filled(tmp_path / "a", models, task, search=mode, searching=how)
    assert (cached, counted["written"]) == (made, 0)
    other = replace(how, step_model=Liking(models[1], style="full"))
    assert filled(tmp_path / "a", models, task, search=mode, searching=other)[1]["written"] > 0


def test_a_step_model_is_not_given_in_vain(tmp_path, models):
    how = SearchOptions(step_model=StepModel(models[1]))
    vectors = VectorCache(tmp_path / "vectors", models[0], RenderOptions(), CPU)
    with pytest.raises(ConfigError, match=r"step_model is given, but --tcots.searching.choose is medoid"):
        TCoTs(TCoTOptions(search="best_of_n", searching=how), models[1], CPU, tmp_path / "j.jsonl", vectors=vectors)


@pytest.mark.slow
def test_a_bad_candidate_does_not_compete(tmp_path, models, task, monkeypatch):
    """It is left out, and the T-CoTs of the others are those of a task that never had it."""
    how, bad = SearchOptions(samples=3, choose="delta_s"), {}
    backbone, reasoner = models
    last = len(task.candidates) - 1
    wrong = Side(text=f"it holds {reasoner.processor.image_token}")
    vectors = VectorCache(tmp_path / "v", backbone, RenderOptions(on_bad_tcot="lenient"), CPU)
    options = TCoTOptions(style="brief", max_new_tokens=6, batch_size=4, search="best_of_n", searching=how)
    writer = TCoTs(options, reasoner, CPU, tmp_path / "j.jsonl", vectors=vectors)
    made, counts = writer.fill(replace(task, candidates=[*task.candidates[:last], wrong]), bad)
    writer.close()
    assert len(bad) == counts["absent"] == 1
    without = replace(task, candidates=task.candidates[:last])
    expected, _ = filled(tmp_path / "b", models, without, search="best_of_n", searching=how)
    assert [side.tcot for side in (*made.queries, *made.candidates[:last])] == expected


@pytest.mark.slow
@pytest.mark.parametrize("step_model", [False, True])
def test_the_command_line_reports_tokens_beside_quality(tmp_path, monkeypatch, capsys, step_model):
    monkeypatch.chdir(tmp_path)
    tiny = {"path": "embedrl:tiny"}
    words = {
        "benchmark": "world", "out": "out", "render.on_bad_tcot": "lenient", "tcots.style": "brief",
        "tcots.max_new_tokens": "6", "tcots.search": "best_of_n", "tcots.searching.samples": "2",
        "backbone": json.dumps({"class_path": "embedrl.QwenVLBackbone", "init_args": tiny}),
        "reasoner": json.dumps({"class_path": "embedrl.QwenVLReasoner", "init_args": tiny}),
        "tasks": json.dumps([{
            "class_path": "embedrl.data.world.WorldTasks",
            "init_args": {"split": "val", "size": 2, "families": ["vqa"], "teacher": "none"},
        }]),
    }  # fmt: skip
    if step_model:
        part = yaml.safe_load((CONFIGS / "parts/step_model/world.yaml").read_text())
        part["init_args"]["generator"]["init_args"]["path"] = "embedrl:tiny"
        (tmp_path / "part.yaml").write_text(yaml.safe_dump(part))
        words |= {"tcots.search": "mcts", "tcots.searching.branches": "2", "tcots.searching.step_model": "part.yaml"}
        del words["tcots.searching.samples"]
    assert main(["eval", *(word for name, value in words.items() for word in (f"--{name}", value))]) == 0
    [result] = json.loads((tmp_path / "out/report.json").read_text())["sets"]
    assert result["tcots"]["tokens"] > 0
    assert f"vqa: {result['tcots']['tokens']:,} tokens of T-CoTs" in capsys.readouterr().out
