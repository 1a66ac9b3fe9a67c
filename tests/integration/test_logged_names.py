"""docs/reference/logged.md against what the three quickstarts log: every name has a row, every row has a name."""

import re
from pathlib import Path

import pytest
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from embedrl.cli import main

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/reference/logged.md").read_text(encoding="utf-8")
FAMILIES = ["t2i", "video_qa"]
TASKS = [
    {"class_path": "embedrl.data.world.WorldTasks", "init_args": {"split": "val", "size": 3, "families": FAMILIES}}
]
EMBEDDER = {
    "class_path": "embedrl.FrozenEmbedder",
    "init_args": {"backbone": str(ROOT / "configs/parts/backbone/quickstart_embedder.yaml")},
}
RETRIEVAL = {"tasks": TASKS, "style": "brief", "max_new_tokens": 24}
TRAINER = {"max_steps": 2, "val_check_interval": 2, "log_every_n_steps": 1, "enable_progress_bar": False}
NOT_HERE = {
    "data/skipped/<cause>": "bad samples",
    "val/<task>/left_out": "bad sides",
    "val/left_out": "bad lessons",
    "policy/mismatch": "rollouts on a server",
    "policy/mismatch_ratio_max": "rollouts on a server",
    "zone/success": "a draw from the partial zone",
    "zone/partial": "a draw from the partial zone",
    "reward/process/failed/<cause>": "questions without an answer",
    "train/loss_<part>": "a loss of parts",
    "train/in_order": "graded labels",
    "train/disc/<metric>": "a unified model",
    "train/gen/<metric>": "a unified model",
    "train/tokens_<role>": "a unified model",
    "train/latent_steps": "a model with latent steps",
    "train/conflict/<layer>": "a unified model that measures it",
    "rollout/no_gen_emb": "a unified policy",
    **dict.fromkeys(("reward/gate/thinking", "reward/gate/gain", "reward/gate/helped"), "a learned gate"),
    "val/before/<task>/<metric>": "a reranker in training",
    **dict.fromkeys(("train/router/load/<expert>", "train/router/entropy", "train/router/balance"), "experts"),
    "train/expert_beta": "a loss that knows experts",
    "train/teacher_agreement": "a teacher's scores",
    **{f"val/{kind}{name}": "an inserter" for kind in ("<kind>/", "") for name in ("image_f1", "placement", "order")},
    "val/<task>/<metric>_dim<length>": "a Matryoshka loss",
    "val/<metric>_dim<length>": "a Matryoshka loss",
}
"""Rows that these runs have no reason to log, and what would."""


def callback(name: str, **arguments) -> dict:
    return {"class_path": f"embedrl.training.{name}", "init_args": arguments}


def exported(name: str) -> dict:
    return callback("ExportModel", out=f"runs/quickstart_{name}/model")


REWARDS = yaml.safe_load((ROOT / "configs/parts/reward/paper.yaml").read_text()) + [
    {"reward": {"class_path": f"embedrl.rl.{name}"}}
    for name in ("EvidenceReward", "StepCreditReward", "CounterfactualReward")
]
"""Every reward, each once."""

OVERLAYS = {
    "embedder": {
        "trainer": {"callbacks": [callback("RetrievalGrid"), exported("embedder")]},
        "data": {"init_args": {"batch_size": 4, "sub_batch_size": 2, "micro_batch_size": 4, "val": TASKS}},
    },
    "reasoner": {
        "trainer": {
            "callbacks": [
                callback("ReasonedRetrieval", embedder=EMBEDDER, **RETRIEVAL),
                callback("ReasoningSamples", num_samples=2),
                exported("reasoner"),
            ]
        },
        "model": {"init_args": {"max_new_tokens": 24}},
        "data": {"init_args": {"batch_size": 4, "micro_batch_size": 4, "val": {"init_args": {"limit": 12}}}},
    },
    "egrl": {
        "trainer": {
            "callbacks": [callback("ReasonedRetrieval", **RETRIEVAL), callback("ReasoningSamples", num_samples=2)]
        },
        "model": {
            "init_args": {
                "rewards": REWARDS,
                "kl_in_reward": 0.01,
                "advantages": {"sft_weight": 0.1, "sft_gates": {"format": 1.0}},
                "group_size": 3,
                "max_new_tokens": 24,
                "rollout": {"max_new_tokens": 48},
                "loss": {"init_args": {"importance_cap": 2.0}},
            }
        },
        "data": {"init_args": {"batch_size": 4, "block_size": 2, "val": {"init_args": {"limit": 12}}}},
    },
}


def rows() -> list[str]:
    """The names in the first column of the page's tables."""
    return [row[1] for line in PAGE.splitlines() if (row := re.match(r"\| `([^`]+)` \|", line))]


def pattern(row: str) -> re.Pattern[str]:
    """A row as a pattern of tags: `<modality>` is one of three, `<role>` one of two, any other `<...>` a word."""
    places = {"<modality>": "(?:text|image|video)", "<role>": "(?:query|target)", "<query>": r"\d+"}
    parts = re.split(r"(<\w+>)", row)
    return re.compile("".join(places.get(p, r"[\w.-]+") if p.startswith("<") else re.escape(p) for p in parts))


def tags(folder: Path) -> set[str]:
    """Every tag of a run: curves, histograms, pictures, texts."""
    found: set[str] = set()
    for path in folder.glob("events.out.tfevents.*"):
        events = EventAccumulator(str(path))
        events.Reload()
        kinds = events.Tags()
        names = [*kinds["scalars"], *kinds["histograms"], *kinds["images"], *kinds["tensors"]]
        found |= {name.removesuffix("/text_summary") for name in names}
    return found


@pytest.fixture(scope="module")
def logged(tmp_path_factory) -> dict[str, set[str]]:
    """The tags of each quickstart, two steps each; one reads what the one before left."""
    folder = tmp_path_factory.mktemp("logged")
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name, overlay in OVERLAYS.items():
            overlay["trainer"] |= TRAINER
            Path(f"{name}.yaml").write_text(yaml.safe_dump(overlay))
            assert (
                main(["fit", "--config", str(ROOT / f"configs/quickstart/{name}.yaml"), "--config", f"{name}.yaml"])
                == 0
            )
            (run,) = folder.glob(f"runs/quickstart_{name}/version_0")
            found[name] = tags(run)
    return found


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("ignore")
def test_the_table_of_logged_quantities_is_complete_and_holds_nothing_else(logged):
    table = {row: pattern(row) for row in rows()}
    every = set.union(*logged.values())
    assert {"train/loss", "reward/outcome/mean", "val/hit@1"} <= every
    assert sorted(tag for tag in every if not any(p.fullmatch(tag) for p in table.values())) == [], "without a row"
    unseen = {row for row, p in table.items() if not any(p.fullmatch(tag) for tag in every)}
    drawn = {"reward/counterfactual/helped"}  # of rollouts with crops, if there are any
    assert sorted(unseen - {"validation"} - drawn - set(NOT_HERE)) == [], "rows that nothing logs"
    assert set(NOT_HERE) <= unseen, "log them here, then"
