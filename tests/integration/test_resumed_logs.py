"""A run that was resumed several times logs what an unbroken one logs: every quantity, at every step."""

import json
from pathlib import Path

import pytest
import yaml
from egrl_small import overlay as egrl
from small_sources import LESSONS, world
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from embedrl.cli import main

ROOT = Path(__file__).parents[2]
CLOCKS = ("per_s", "hp_metric")
"""How the names of what a clock measures end, and what says nothing."""
TRAINER = {
    "log_every_n_steps": 1, "enable_progress_bar": False, "enable_model_summary": False, "logger": None,
    "val_check_interval": 3, "check_val_every_n_epoch": None,
}  # fmt: skip
ADAPTER = {"lora": {"r": 4, "alpha": 8, "dropout": 0.1, "scope": "language"}, "train_vision": False}
TINY = {"init_args": {"path": "embedrl:tiny"} | ADAPTER}
CONSTANT = {"schedule": "constant_with_warmup"}  # the same for runs of different length


def embedder(folder: Path) -> dict:
    """Rows without T-CoTs, of which some are broken: both are counted."""
    (folder / "broken.png").write_bytes(b"no picture")
    keys = ("qry", "qry_image_path", "pos_text", "pos_image_path", "neg_text", "neg_image_path", "query_cot", "pos_cot")
    rows = [
        dict.fromkeys(keys, "")
        | {"qry": f"what {i}", "pos_text": f"it {i}", "pos_image_path": "broken.png" * (i % 3 == 0)}
        for i in range(12)
    ]
    (folder / "rows.json").write_text(json.dumps(rows))
    files = {"path": str(folder / "rows.json"), "image_root": str(folder), "cache_dir": str(folder / "cache")}
    tasks = {
        "class_path": "embedrl.data.world.WorldTasks",
        "init_args": {"split": "val", "size": 4, "families": ["vqa"]},
    }
    return {
        "trainer": TRAINER | {"callbacks": None},
        "model": {"init_args": CONSTANT | {"backbone": TINY}},
        "data": {
            "init_args": {
                "mix": [
                    {"source": {"class_path": "embedrl.data.MMEBSource", "init_args": files}},
                    {"source": world("vqa", size=12)},
                ],
                "batch_size": 4, "sub_batch_size": 2, "micro_batch_size": 4, "batches_per_epoch": 5,
                "render": {"jitter": 60, "on_missing_tcot": "raw"}, "on_bad": "skip", "val": [tasks],
            }
        },
    }  # fmt: skip


def reasoner(folder: Path) -> dict:
    """Batches of two micro-batches."""
    return {
        "trainer": TRAINER | {"callbacks": None},
        "model": {"init_args": CONSTANT | {"generator": TINY, "max_new_tokens": 4}},
        "data": {"init_args": LESSONS | {"batch_size": 4, "micro_batch_size": 2}},
    }


def egrl_steps(folder: Path) -> dict:
    """Steps of texts, pictures and videos by turns: each measures something that others do not."""
    settings = egrl(TRAINER)
    settings["model"]["init_args"] = settings["model"]["init_args"] | CONSTANT
    settings["data"]["init_args"] = settings["data"]["init_args"] | {"steps_per_epoch": 20}
    return settings


RECIPES = {"embedder": (embedder, 1), "reasoner": (reasoner, 1), "egrl": (egrl_steps, 2)}
"""The overlay, and how many optimizer steps a batch makes."""


def curves(root: Path) -> dict[str, dict[int, set[float]]]:
    """Every value of every curve by tag and step, over all starts of a run."""
    (run,) = root.iterdir()
    found: dict[str, dict[int, set[float]]] = {}
    for path in sorted(run.glob("events.out.tfevents.*")):
        events = EventAccumulator(str(path), size_guidance={"scalars": 0})
        events.Reload()
        for tag in events.Tags()["scalars"]:
            for event in events.Scalars(tag):
                found.setdefault(tag, {}).setdefault(event.step, set()).add(event.value)
    return {tag: steps for tag, steps in found.items() if not tag.endswith(CLOCKS)}


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", RECIPES)
def test_every_curve_of_a_resumed_run_is_that_of_an_unbroken_one(name, tmp_path, capsys):
    recipe, each = RECIPES[name]
    settings = tmp_path / "small.yaml"
    settings.write_text(yaml.safe_dump(recipe(tmp_path)))
    words = ["fit", "--config", str(ROOT / f"configs/quickstart/{name}.yaml"), "--config", str(settings)]

    def fit(folder: str, batches: int, *more: str) -> None:
        flags = [
            "--trainer.default_root_dir",
            str(tmp_path / folder),
            "--trainer.max_steps",
            str(each * batches),
            *more,
        ]
        assert main([*words, *flags]) == 0, capsys.readouterr().err

    fit("whole", 9)
    fit("pieces", 2)
    for batches in (4, 7, 9):
        fit("pieces", batches, "--ckpt_path", "last")
    whole, pieces = curves(tmp_path / "whole"), curves(tmp_path / "pieces")
    assert pieces.keys() == whole.keys()
    for tag, steps in whole.items():
        assert pieces[tag] == steps, tag
    if name == "embedder":
        for tag in ("data/raw_sides", "data/skipped"):
            assert max(whole[tag][8]) > max(whole[tag][3]) > 0, tag
    if name == "egrl":
        assert any(0 < len(steps) < 9 for tag, steps in whole.items() if tag.startswith("rollout/evidence_"))
