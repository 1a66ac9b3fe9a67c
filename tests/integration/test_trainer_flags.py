"""Every option of the Trainer that people use, through the three trainings: it works, or one line says why not."""

import copy
import csv
import json
import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from cli_process import logged
from ports import free_port, launching
from tiny_runs import TRAININGS, fit, write

from embedrl.commands.fit import TrainingCLI, start

PAGE = Path(__file__).parents[2] / "docs/reference/trainer.md"
ROWS = [
    [cell.strip() for cell in line.strip().strip("|").split("|")]
    for line in PAGE.read_text().splitlines()
    if line.startswith("| `--")
]


@pytest.fixture(autouse=True)
def own_seed(monkeypatch):
    """`seed_everything` leaves the run's seed in the environment."""
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")


@pytest.fixture(scope="module")
def one_process_group():
    """`ddp` with one process, as torchrun would start it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MASTER_PORT", str(free_port()))
        yield
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("training", TRAININGS)
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0].strip("`"))
def test_the_page_says_what_happens(tmp_path, monkeypatch, one_process_group, row, training):
    monkeypatch.chdir(tmp_path)
    expected = row[1 + list(TRAININGS).index(training)]
    run = fit(training, tmp_path, *row[0].strip("`").split())
    if expected == "works":
        assert run.code == 0, run.err
    else:
        assert (run.code, run.err.count("error: ")) == (2, 1), run.err
        assert expected in run.line


def test_the_page_names_every_training():
    head = next(line for line in PAGE.read_text().splitlines() if line.startswith("| option"))
    assert [cell.strip() for cell in head.split("|")][2:5] == list(TRAININGS)
    assert all(len(row) == 5 and all(row[:4]) for row in ROWS)


# ---------------------------------------------------------------- what works does what it says


def weights(run, name="last"):
    [path] = run.folder.rglob(f"{name}.ckpt")
    return torch.load(path, weights_only=True)["state_dict"]


def losses(run, tag="train/loss"):
    return [values[-1] for _, values in sorted(logged(run.folder / "version_0", tag).items())]


SEEDED = ("--seed_everything", "5")


@pytest.mark.slow
@pytest.mark.parametrize("training", TRAININGS)
def test_every_draw_derives_from_the_seed(tmp_path, training):
    zero = fit(training, tmp_path / "zero")
    explicit = fit(training, tmp_path / "explicit", "--model.seed", "0", "--data.seed", "0")
    five, again = (fit(training, tmp_path / name, *SEEDED) for name in ("five", "again"))
    part = fit(training, tmp_path / "part", *SEEDED, "--data.seed", "0")
    states = [weights(run) for run in (zero, explicit, five, again, part)]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert all(torch.equal(states[2][key], states[3][key]) for key in states[2])
    assert not any(torch.equal(states[0][key], states[2][key]) for key in states[0])
    assert not all(torch.equal(states[2][key], states[4][key]) for key in states[2])  # another order of the data
    saved = torch.load(next(five.folder.rglob("last.ckpt")), weights_only=True)
    assert saved["hyper_parameters"]["seed"] == 5
    [start] = json.loads((five.folder / "version_0/provenance.json").read_text())["starts"]
    assert start["seed"] == start["config"]["seed_everything"] == 5
    assert start["config"]["data"]["init_args"]["seed"] is None


@pytest.mark.slow
def test_the_seed_alone_changes_each_draw(tmp_path):
    """Dropout, order, evidence noise, rollouts: one at a time."""
    base = weights(fit("EG-RL", tmp_path / "base"))
    for flag in ("--model.seed", "--data.seed", "--model.rollout.seed"):
        changed = weights(fit("EG-RL", tmp_path / flag.strip("-"), flag, "5"))
        assert not all(torch.equal(base[key], changed[key]) for key in base), flag


@pytest.mark.slow
def test_a_drawn_seed_is_written(tmp_path):
    run = fit("Reasoner", tmp_path, "--seed_everything", "true")
    config = yaml.safe_load((run.folder / "version_0/config.yaml").read_text())
    assert isinstance(config["seed_everything"], int)
    assert config["seed_everything"] is not True


@pytest.mark.slow
@pytest.mark.parametrize("training", TRAININGS)
def test_overfitting_sees_one_batch_again_and_again(tmp_path, training):
    quiet = ["--trainer.max_steps", "3", "--trainer.limit_val_batches", "0"]
    model = "backbone" if training == "Embedder" else "generator"
    quiet += [
        f"--model.{model}.lora.dropout",
        "0",
        "--model.optimizer.lr",
        "1e-12",
        "--model.optimizer.weight_decay",
        "0",
    ]
    if training == "EG-RL":
        tag, quiet = "rollout/length", [*quiet, "--model.rollout.temperature", "1e-4"]  # nearly greedy
    else:
        tag = "train/loss"
    same = losses(fit(training, tmp_path / "same", *quiet, "--trainer.overfit_batches", "1"), tag)
    plain = losses(fit(training, tmp_path / "plain", *quiet), tag)
    assert same == pytest.approx([same[0]] * 3, rel=1e-4)
    assert same[0] == plain[0]
    if training != "EG-RL":
        assert max(plain) - min(plain) > 1e-3


@pytest.mark.slow
def test_overfitting_goes_on_where_it_stopped(tmp_path):
    words = ("--trainer.overfit_batches", "2", "--trainer.limit_val_batches", "0")
    whole = fit("Reasoner", tmp_path / "whole", *words, "--trainer.max_steps", "5")
    fit("Reasoner", tmp_path / "part", *words, "--trainer.max_steps", "3")
    part = fit("Reasoner", tmp_path / "part", *words, "--trainer.max_steps", "5", "--ckpt_path", "last")
    assert losses(whole) == losses(part)
    assert len(losses(whole)) == 5


@pytest.mark.slow
@pytest.mark.parametrize("training", TRAININGS)
def test_averaged_weights_are_saved_and_go_on(tmp_path, training):
    words = (
        "--trainer.callbacks",
        "WeightAveraging",
        "--trainer.limit_val_batches",
        "0",
        "--checkpoint.every_n_steps",
        "1",
    )
    whole = fit(training, tmp_path / "whole", *words, "--trainer.max_steps", "4")
    first = fit(training, tmp_path / "part", *words)
    saved = torch.load(next(first.folder.rglob("last.ckpt")), weights_only=True)
    assert saved["state_dict"].keys() == saved["current_model_state"].keys()  # what is trained, nothing else
    part = fit(training, tmp_path / "part", *words, "--trainer.max_steps", "4", "--ckpt_path", "last")
    assert part.code == 0, part.err
    left, right = weights(whole), weights(part)
    assert all(torch.allclose(left[key], right[key], atol=1e-7) for key in left)
    plain = weights(fit(training, tmp_path / "plain", *words[2:], "--trainer.max_steps", "4"))
    assert not all(torch.equal(left[key], plain[key]) for key in left)


@pytest.mark.slow
@pytest.mark.parametrize("training", TRAININGS)
def test_modules_can_be_copied_and_pickled(tmp_path, training):
    """What weight averaging does with them."""

    class Unrun(TrainingCLI):
        def _run_subcommand(self, subcommand):
            pass

    module = start(["fit", "--config", str(write(training, tmp_path))], Unrun).model
    for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        options = twin.optimizer([torch.nn.Parameter(torch.zeros(2, 2))]).param_groups[0]
        assert (options["lr"], options["weight_decay"]) == (0.01, 0.01)


OBSERVED = {
    "no curves": (["--trainer.logger", "false"], lambda run: not list(run.folder.rglob("events*"))),
    "clipped": (
        ["--model.optimizer", "torch.optim.SGD", "--trainer.gradient_clip_val", "1e-9"],
        lambda run: max(float(w.abs().max()) for key, w in weights(run).items() if "lora_B" in key) < 1e-9,
    ),
    "accumulated": (
        ["--trainer.accumulate_grad_batches", "2"],
        lambda run: (
            torch.load(next(run.folder.rglob("last.ckpt")), weights_only=True)["loops"]["fit_loop"][
                "epoch_loop.batch_progress"
            ]["total"]["ready"]
            == 4
        ),
    ),
    "validated twice": (
        ["--trainer.val_check_interval", "1"],
        lambda run: len(logged(run.folder / "version_0", "val/exact")) == 2,
    ),
    "never validated": (
        ["--trainer.val_check_interval", "1", "--trainer.limit_val_batches", "0"],
        lambda run: not logged(run.folder / "version_0", "val/exact"),
    ),
    "an epoch of 8": (["--trainer.max_steps", "-1", "--trainer.max_epochs", "1"], lambda run: len(losses(run)) == 8),
    "no time": (["--trainer.max_time", "00:00:00:00"], lambda run: "Done: 0 steps" in run.out),
    "a dry run": (["--trainer.fast_dev_run", "true"], lambda run: not run.folder.exists()),
    "bare": (
        ["--trainer.barebones", "true", "--trainer.log_every_n_steps", "0"],
        lambda run: not [*run.folder.rglob("*.ckpt"), *run.folder.rglob("events*")],
    ),
    "every other step": (["--trainer.log_every_n_steps", "2"], lambda run: len(losses(run)) == 1),
    "no checkpoint": (["--trainer.enable_checkpointing", "false"], lambda run: not list(run.folder.rglob("*.ckpt"))),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", OBSERVED)
def test_it_does_what_it_says(tmp_path, case):
    words, holds = OBSERVED[case]
    run = fit("Reasoner", tmp_path, *words)
    assert run.code == 0, run.err
    assert holds(run)


@pytest.mark.slow
def test_csv_curves_are_the_curves(tmp_path):
    run = fit("Reasoner", tmp_path, "--trainer.logger", "CSVLogger", "--trainer.logger.save_dir", str(tmp_path / "csv"))
    assert run.code == 0, run.err
    [path] = (tmp_path / "csv").rglob("metrics.csv")
    rows = [row["train/loss"] for row in csv.DictReader(path.open()) if row.get("train/loss")]
    assert [float(value) for value in rows] == pytest.approx(losses(fit("Reasoner", tmp_path / "board")), rel=1e-5)


@pytest.mark.slow
@pytest.mark.dist
def test_two_processes_that_lightning_starts(tmp_path):
    words = ["--trainer.devices", "2", "--trainer.strategy", "ddp", "--trainer.limit_val_batches", "0"]
    command = [sys.executable, "-m", "embedrl", "fit", "--config", str(write("Reasoner", tmp_path)), *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=launching(), check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert re.search(r"Done: 2 steps", done.stdout)
