import json

import pytest
import torch
import yaml

from embedrl.cli import main
from embedrl.data.render import RenderOptions, render
from embedrl.data.world import WorldTasks
from embedrl.errors import ConfigError
from embedrl.evaluation.modes import Modes
from embedrl.models.qwen_vl.backbone import QwenVLBackbone
from embedrl.models.sampling import SamplingOptions
from embedrl.models.unified.latent_model import QwenVLLatent
from embedrl.models.unified.layout import UnifiedLayout
from embedrl.models.unified.model import QwenVLUnified
from embedrl.rl.policy_vectors import PolicyVectors
from embedrl.tcot.chat import reasoning_chat
from embedrl.types import Role

CPU = torch.device("cpu")
LENGTH, SAMPLES = 3, 2


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A unified model's folder."""
    folder = tmp_path_factory.mktemp("unified") / "model"
    model = QwenVLUnified("embedrl:tiny", UnifiedLayout(request="evidence :"))
    model.build()
    model.eval().export(folder)
    return folder


def evaluate(model, out, **modes):
    task = {
        "class_path": "embedrl.data.world.WorldTasks",
        "init_args": {"split": "val", "size": 6, "families": ["vqa"]},
    }
    content = {
        "benchmark": "world",
        "out": str(out),
        "checkpoint": str(model),
        "tasks": [task],
        "tcots": {"max_new_tokens": LENGTH, "style": "brief"},
        "device": "cpu",
        "modes": modes,
    }
    path = out.with_suffix(".yaml")
    path.write_text(yaml.safe_dump(content))
    code = main(["eval", "--config", str(path)])
    return code, json.loads((out / "report.json").read_text()) if code == 0 else None


def hits(queries, candidates, qrels):
    """Whether the best candidate is the right one, by a plain loop."""
    out = []
    for query, judged in zip(queries, qrels, strict=True):
        scores = [float(query @ candidate) for candidate in candidates]
        best = max(range(len(scores)), key=scores.__getitem__)
        tied = any(abs(scores[i] - scores[best]) < 1e-6 for i in range(len(scores)) if i not in judged)
        out.append(best in judged and not tied)
    return out


@pytest.mark.slow
def test_modes_and_bounds_against_plain_loops(model, tmp_path, capsys):
    code, _ = evaluate(model, tmp_path / "out", query="disc", target="disc", bounds=True, samples=SAMPLES)
    assert code == 0
    assert "upper bounds" in capsys.readouterr().out
    [figures] = json.loads((tmp_path / "out/modes.json").read_text()).values()
    [task] = WorldTasks(split="val", size=6, families=["vqa"]).tasks()
    unified = QwenVLUnified(str(model))
    unified.build()
    unified.eval()
    vectors = PolicyVectors(RenderOptions())
    vectors.prepare(unified, None)
    preprocessor, none = unified.preprocessor(), RenderOptions(tcot="none")
    sides = {Role.QUERY: task.queries, Role.TARGET: task.candidates}
    with torch.no_grad():
        disc = {r: unified.encode(preprocessor([render(s, none) for s in own])) for r, own in sides.items()}
        behind = {}
        for role, own in sides.items():
            prompts = preprocessor.prompts([reasoning_chat(s, role, task.queries[0].modality) for s in own])
            rows = unified.sample(prompts, 1, [0] * len(own), SamplingOptions(LENGTH, 0.0))
            texts = [s.with_tcot(row[0].text) for s, row in zip(own, rows, strict=True)]
            behind[role] = vectors.embed(texts, ["side"] * len(own), CPU)
    expected = [hits(*(v[role] for role in Role), task.qrels) for v in (disc, behind)]
    count = len(task.queries)
    assert figures["disc"] == pytest.approx(sum(expected[0]) / count)
    assert figures["gen"] == pytest.approx(sum(expected[1]) / count)
    assert figures["oracle"] == pytest.approx(sum(a or b for a, b in zip(*expected, strict=True)) / count)
    assert (figures["samples"], figures["metric"]) == (SAMPLES, "hit@1")
    assert 0 < figures["tokens"] <= LENGTH
    assert 0 <= figures["no_gen_emb"] <= 1
    assert 0 < figures["disc_ms"] < figures["gen_ms"]


@pytest.mark.slow
def test_each_side_has_its_mode(model, tmp_path):
    """A file of vectors is named by the sides and the reasoning that is read with them."""
    files = {}
    for query, target in (("disc", "disc"), ("gen", "disc"), ("gen", "gen")):
        out = tmp_path / f"{query}-{target}"
        code, report = evaluate(model, out, query=query, target=target, reasoning="given")
        assert code == 0
        assert report
        assert not (out / "tcots.jsonl").exists()
        files[query, target] = {path.name for path in (out / "vectors").rglob("*.safetensors")}
    assert [len(names) for names in files.values()] == [2, 2, 2]
    assert len(files["disc", "disc"] & files["gen", "disc"]) == 1  # the candidates
    assert len(files["gen", "gen"] & files["gen", "disc"]) == 1  # the queries
    assert not files["gen", "gen"] & files["disc", "disc"]


@pytest.mark.slow
def test_own_reasoning_is_kept_in_the_journal_of_the_sides_that_have_it(model, tmp_path):
    code, _ = evaluate(model, tmp_path / "out", query="gen", target="disc")
    assert code == 0
    [task] = WorldTasks(split="val", size=6, families=["vqa"]).tasks()
    lines = (tmp_path / "out/tcots.jsonl").read_text().splitlines()
    assert 0 < len(lines) <= len(task.queries) + 1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"query": "both"}, "--modes.query is 'both': give disc, gen or latent"),
        ({"target": ""}, "--modes.target is '': give disc, gen or latent"),
        ({"reasoning": "mine"}, "--modes.reasoning is 'mine': give own or given"),
        ({"samples": 0}, "--modes.samples is 0: give 1 or more"),
    ],
)
def test_unknown_modes_are_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        Modes(**values)


def test_models_without_a_mode_are_refused():
    with pytest.raises(ConfigError, match="a QwenVLBackbone has one mode; give a unified model"):
        Modes().check(QwenVLBackbone("embedrl:tiny"))
    with pytest.raises(ConfigError, match="this model has no <gen_emb>"):
        Modes().check(QwenVLUnified("embedrl:tiny", UnifiedLayout(gen=False)))
    assert Modes("disc", "disc").check(QwenVLUnified("embedrl:tiny", UnifiedLayout(gen=False)))


@pytest.mark.slow
def test_latent_steps_are_counted_and_timed(tmp_path, capsys):
    """Both sides behind latent steps, against a plain loop; a model with words has no such mode."""
    latent = QwenVLLatent("embedrl:tiny", UnifiedLayout(request="evidence :"), latent_steps=3)
    latent.build()
    latent.eval().export(tmp_path / "model")
    code, _ = evaluate(tmp_path / "model", tmp_path / "out", query="latent", target="latent", bounds=True)
    assert code == 0
    assert not (tmp_path / "out/tcots.jsonl").exists()
    [figures] = json.loads((tmp_path / "out/modes.json").read_text()).values()
    [task] = WorldTasks(split="val", size=6, families=["vqa"]).tasks()
    with torch.no_grad():
        vectors = [
            [
                latent.encode(latent.preprocessor()([render(side, RenderOptions(tcot=tcot)) for side in sides]))
                for sides in (task.queries, task.candidates)
            ]
            for tcot in ("none", "latent")
        ]
    expected = [hits(*own, task.qrels) for own in vectors]
    count = len(task.queries)
    assert figures["disc"] == pytest.approx(sum(expected[0]) / count)
    assert figures["gen"] == pytest.approx(sum(expected[1]) / count)
    assert figures["oracle"] == pytest.approx(sum(a or b for a, b in zip(*expected, strict=True)) / count)
    assert (figures["latent_steps"], figures["tokens"], figures["no_gen_emb"]) == (3, 0, 0)
    assert figures["thinking"] == 1
    assert 0 < figures["disc_ms"] < figures["gen_ms"]
    code, _ = evaluate(tmp_path / "model", tmp_path / "gen", query="gen", target="gen")
    assert code != 0
    assert "this model reasons in latent steps: give latent for both sides" in capsys.readouterr().err


def test_latent_mode_is_for_both_sides_of_a_model_that_has_it():
    with pytest.raises(ConfigError, match="latent steps are for both sides"):
        Modes(query="latent", target="disc")
    with pytest.raises(ConfigError, match="takes no latent steps"):
        Modes(query="latent", target="latent").check(QwenVLUnified("embedrl:tiny"))
    with pytest.raises(ConfigError, match="takes no latent steps"):
        Modes(query="latent", target="latent").check(QwenVLLatent("embedrl:tiny", latent_steps=0))
