"""Every class that a YAML of the documentation or a recipe names is tried in `fit`, which writes it to a checkpoint."""

import importlib
import json
import re

import pytest
from chat_server import serving
from cli_process import logged
from documented import ROOT, blocks, named, nodes, recipes
from making import released
from recipes import CONFIGS, EGRL, EMBEDDER, RECIPES, SMALL, overlays

from embedrl.cli import main
from embedrl.training.checkpoints import config_form

NAMED = named()
PARTS = ("embedrl.rl.", "embedrl.losses.", "embedrl.metrics.")
"""What modules are made of, and hyperparameters of a checkpoint name."""
REWARDS = {
    **{path.stem: text for path, text in recipes() if path.parent.name == "reward"},
    **{f"{page.stem} {i}": text for i, (page, text) in enumerate(blocks()) if text.startswith("- reward:")},
}
"""Lists of rewards: those of the recipes, and those in the documentation."""

TRIED = {
    "embedrl.rl.ServerRollout": "tests/integration/test_server_rollout_cli.py::test_the_quickstart_with_a_server",
    **dict.fromkeys(
        ("embedrl.rl.RankingAnswer", "embedrl.rl.RankingReward"),
        "tests/rl/rewards/test_rerank.py::test_rankings_are_trained_by_their_rewards",
    ),
    "embedrl.rl.KeepInPartialZone": "tests/rl/test_keep_in_zone.py::test_a_run_is_measured_obeys_and_resumes",
    "embedrl.data.world.WorldDifficulty": "tests/data/world/test_difficulty.py::test_it_is_what_the_pair_shows",
    "embedrl.rl.RolloutSuccess": "tests/rl/test_rollout_success.py::test_from_rollouts_to_the_split",
    "embedrl.training.RetrievalGrid": "tests/integration/test_configs.py::test_the_quickstart_from_end_to_end",
    "embedrl.training.EmbeddingProjector": "tests/integration/test_configs.py::test_the_quickstart_from_end_to_end",
    "embedrl.rl.PlacementReward": "tests/rl/test_placement_reward.py::test_the_recipe_rolls_out_and_improves",
    **{
        f"embedrl.losses.{name}": "tests/integration/test_losses.py::test_a_loss_trains_and_is_rebuilt"
        for name in (
            "CoSENT",
            "Distillation",
            "ExpertAwareInfoNCE",
            "Matryoshka",
            "QuantizationAware",
            "SigmoidLoss",
            "WeightedSum",
        )
    },
    "embedrl.VLMBackbone": "tests/integration/test_vlm_families.py::test_a_family_trains_resumes_and_is_exported",
    **dict.fromkeys(
        ("embedrl.LateInteraction", "embedrl.losses.MaxSimInfoNCE"),
        "tests/integration/test_late_interaction.py::test_the_figures_of_training_are_those_of_eval",
    ),
    **dict.fromkeys(
        ("embedrl.TwoTowerBackbone", "embedrl.EncoderBackbone"),
        "tests/integration/test_two_towers.py::test_a_family_trains_resumes_and_is_exported",
    ),
    "embedrl.metrics.HitRate": "tests/test_docs.py::test_extending_snippets_train_together",
    "embedrl.distributed.FSDP2Strategy": "tests/integration/test_recipes.py::"
    "test_a_recipe_trains_two_steps_shrunk_under_fsdp2",
    "embedrl.data.JsonlSource": "tests/test_docs.py::test_the_tutorial_on_ones_own_data_trains",
    "embedrl.data.MMEBSource": "tests/test_docs_classes.py::test_the_released_formats_train",
    "embedrl.data.LlavaHoundSource": "tests/test_docs_classes.py::test_the_released_formats_train",
}
"""Classes that no recipe below names which a test trains as it stands, and the test that runs them."""
COMMANDS = {
    "embedrl.construction.EndpointVLM",
    "embedrl.construction.LocalVLM",
    "embedrl.data.datasets.Eyes17Tasks",
    "embedrl.data.datasets.OpenClipartTasks",
    "embedrl.inference.StepModel",
}
"""Classes of other commands than fit."""


def made(node):
    """The object of a `{class_path, init_args}`, those in it made first."""
    if isinstance(node, list):
        return [made(item) for item in node]
    if not isinstance(node, dict):
        return node
    if "class_path" not in node:
        return {key: made(value) for key, value in node.items()}
    module, _, name = node["class_path"].rpartition(".")
    return getattr(importlib.import_module(module), name)(**made(node.get("init_args") or {}))


@pytest.mark.parametrize(
    "node", [node for node in NAMED if node["class_path"].startswith(PARTS)], ids=lambda node: node["class_path"]
)
def test_a_named_part_can_be_written_to_a_checkpoint(node):
    if node["class_path"] == "embedrl.rl.RolloutSuccess":
        pytest.skip("a callback: no checkpoint names it")
    form = config_form(made(node))
    assert json.loads(json.dumps(form)) == form
    assert config_form(made(form)) == form
    given = node.get("init_args") or {}
    assert all(form["init_args"][name] == value for name, value in given.items() if not list(nodes(value)))


def classes(text):
    """The names of classes in a YAML's text."""
    return set(re.findall(r"class_path: ([\w.]+)", text))


def reachable(path):
    """The text of a recipe and of the parts that it names."""
    text = path.read_text(encoding="utf-8")
    return text + "".join(reachable(path.parent / name) for name in re.findall(r": (\.\.?/[\w./]+\.yaml)", text))


def test_every_named_class_is_tried_in_fit():
    here = [path for path in RECIPES if not re.search("_vl_|_vit_", path.stem)]  # tests replace the data of the others
    trained = set().union(*map(classes, [*map(reachable, here), *REWARDS.values()]))
    names = {name for name in (node["class_path"] for node in NAMED) if not name.startswith("my_")}  # test_docs.py's
    assert names - trained - COMMANDS - set(TRIED) == set()
    assert set(TRIED) <= names
    for test in TRIED.values():
        file, _, function = test.partition("::")
        assert f"def {function}(" in (ROOT / file).read_text(encoding="utf-8"), test


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_released_formats_train(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "hf")
    mix = {"data": {"init_args": {"mix": str(released(tmp_path, rows=4)), "render": {"tcot": "none"}}}}
    args = ["fit", "--config", str(CONFIGS / "quickstart/embedder.yaml"), *overlays(tmp_path, SMALL, EMBEDDER, mix)]
    assert main(args) == 0, capsys.readouterr().err
    (run,) = tmp_path.rglob("version_0")
    assert sorted(logged(run, "train/loss")) == [0, 1]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", REWARDS)
def test_the_quickstart_trains_with_every_list_of_rewards(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with serving(lambda body: "1") as server:
        (tmp_path / "rewards.yaml").write_text(REWARDS[name].replace("http://127.0.0.1:8000/v1", server.url))
        overlay = overlays(tmp_path, SMALL, EGRL)
        args = ["fit", "--config", str(CONFIGS / "quickstart/egrl.yaml"), *overlay, "--model.rewards", "rewards.yaml"]
        assert main(args) == 0, capsys.readouterr().err
        assert bool(server.asked) == ("EndpointJudge" in REWARDS[name])
    (run,) = tmp_path.rglob("version_0")
    assert sorted(logged(run, "reward/total/mean")) == [0, 1]
    assert main([*args, "--ckpt_path", "last", "--trainer.max_steps", "3"]) == 0, capsys.readouterr().err
