"""The shipped recipes, and what makes each small enough for a test."""

import json
from pathlib import Path

import pytest
import yaml
from small_sources import world

from embedrl.cli import main
from embedrl.data.world import WorldSource

CONFIGS = Path(__file__).parents[2] / "configs"


RECIPES = sorted(
    path
    for path in CONFIGS.rglob("*.yaml")
    if not {"parts", "construction", "eval", "mining"} & {*path.parts}
    and "\nstages:" not in path.read_text()  # a list of stages is no training; tests/commands/test_stages.py runs it
)


PARTS = sorted((CONFIGS / "parts").rglob("*.yaml"))


QUICKSTART = CONFIGS / "quickstart" / "embedder.yaml"


TASKS = [{"class_path": "embedrl.data.world.WorldTasks", "init_args": {"split": "val", "size": 4, "families": ["vqa"]}}]


SMALL = {
    "trainer": {
        "accelerator": "cpu",
        "devices": 1,
        "strategy": "auto",
        "precision": None,
        "max_steps": 2,
        "max_epochs": None,
        "val_check_interval": 2,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "log_every_n_steps": 1,
    },
}
"""Laid over every recipe."""


# What needs data or weights from elsewhere is replaced by what the package brings: the recipe's other lines still run.
EMBEDDER = {
    "model": {"init_args": {"backbone": str(CONFIGS / "parts/backbone/tiny.yaml")}},
    "data": {
        "init_args": {
            "mix": [{"source": world("composed", negatives=1)}, {"source": world("video_qa")}],
            "val": TASKS,
            "test": TASKS,
            "batch_size": 4,
            "sub_batch_size": 2,
            "micro_batch_size": 8,
            "num_workers": 0,
        }
    },
}


RETRIEVAL = {
    "class_path": "embedrl.training.ReasonedRetrieval",
    "init_args": {"tasks": TASKS, "style": "brief", "max_new_tokens": 4},
}


FROZEN = {
    "class_path": "embedrl.FrozenEmbedder",
    "init_args": {"backbone": str(CONFIGS / "parts/backbone/tiny.yaml")},
}


REASONER = {
    "trainer": {
        "limit_val_batches": 1,
        "callbacks": [
            {**RETRIEVAL, "init_args": {**RETRIEVAL["init_args"], "embedder": FROZEN}},
            {"class_path": "embedrl.training.ExportModel", "init_args": {"out": "shipped"}},
        ],
    },
    "model": {"init_args": {"generator": {"init_args": {"path": "embedrl:tiny"}}, "max_new_tokens": 4}},
    "data": {"init_args": {"batch_size": 4, "micro_batch_size": 4}},
}


EGRL = {
    "trainer": {"limit_val_batches": 1, "callbacks": [RETRIEVAL]},
    "model": {
        "init_args": {
            "generator": {"init_args": {"path": "embedrl:tiny"}},
            "embedder": FROZEN,
            "group_size": 2,
            "rollout": {"max_new_tokens": 4},
            "max_new_tokens": 4,
        }
    },
    "data": {"init_args": {"batch_size": 4}},
}


UNIFIED = {
    "model": {"init_args": {"backbone": {"init_args": {"path": "embedrl:tiny"}}, "max_new_tokens": 4}},
    "data": {"init_args": {**EMBEDDER["data"]["init_args"], "val": TASKS}},
}


VERIFIABLE_RL = {
    "trainer": {"limit_val_batches": 1, "callbacks": []},
    "model": {
        "init_args": {
            "generator": {"init_args": {"path": "embedrl:tiny"}},
            "group_size": 2,
            "rollout": {"max_new_tokens": 4},
            "max_new_tokens": 4,
        }
    },
    "data": {"init_args": {"batch_size": 2}},
}


SMALLER = {
    "EmbedderModule": EMBEDDER,
    "ReasonerModule": REASONER,
    "EGRLModule": EGRL,
    "UnifiedEmbedderModule": UNIFIED,
    "VerifiableRLModule": VERIFIABLE_RL,
}


def rolled_out(folder: Path) -> dict:
    """Rollouts of two pairs, as an overlay that learns from them."""
    source = world("vqa", teacher="perfect")
    (folder / "mix.yaml").write_text(yaml.safe_dump([{"source": source}]))
    pairs = WorldSource(**source["init_args"])
    lines = [
        {"key": f"world/vqa/{pairs[i].id}", "dataset": "world/vqa", "id": pairs[i].id, "row": i}
        | {"tcots": [pairs[i].query.tcot, "<thinking>a guess"], "successes": [1, 0]}
        for i in range(2)
    ]
    (folder / "rollouts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    one = {"init_args": {"mix": str(folder / "mix.yaml"), "rollouts": str(folder / "rollouts.jsonl"), "part": [0, 1]}}
    return {"data": {"init_args": {"train": one, "val": one}}}


def smaller(recipe: Path) -> dict:
    """What makes a recipe small; one whose policy embeds itself keeps doing so."""
    content = yaml.safe_load(recipe.read_text())["model"]
    overlay = SMALLER[content["class_path"].rpartition(".")[2]]
    if "PolicyVectors" not in str(content):
        return overlay
    model = {name: value for name, value in overlay["model"]["init_args"].items() if name != "embedder"}
    return {**overlay, "model": {"init_args": model}}


PICTURES = {
    "trainer": {
        "callbacks": [
            {"class_path": "embedrl.training.RetrievalGrid"},
            {"class_path": "embedrl.training.EmbeddingProjector"},
        ]
    },
    "checkpoint": {"monitor": "val/hit@1"},
}


def name(path: Path) -> str:
    return str(path.relative_to(CONFIGS))


def printed(capsys, *args) -> dict:
    """The configuration that `fit` would run with."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as done:
        main(["fit", *map(str, args), "--print_config"])
    assert done.value.code == 0
    return yaml.safe_load(capsys.readouterr().out)


def overlays(folder: Path, *contents: dict) -> list[str]:
    """The contents as files, as flags."""
    flags = []
    for index, content in enumerate(contents):
        path = folder / f"overlay_{index}.yaml"
        path.write_text(yaml.safe_dump(content))
        flags += ["--config", str(path)]
    return flags
