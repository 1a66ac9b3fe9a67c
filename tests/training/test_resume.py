"""What a resumed run may change, what it refuses, and where a run that nobody asked to resume begins."""

import json

import pytest
import torch
from lightning import Trainer
from tiny_runs import fit

from embedrl.commands.fit import TrainingCLI, start
from embedrl.errors import ConfigError
from embedrl.training.resume import Change, changes, requeued_checkpoint, trained_with

CONFIG = {
    "seed_everything": 0,
    "trainer": {"accumulate_grad_batches": 1, "precision": None, "max_steps": 10, "devices": 1},
    "model": {
        "class_path": "M",
        "init_args": {
            "optimizer": {"class_path": "A", "init_args": {"lr": 0.1, "betas": [0.9, 0.99]}},
            "metrics": None,
        },
    },
    "data": {"class_path": "D", "init_args": {"batch_size": 4, "num_workers": 0, "val": [{"size": 3}]}},
}
CHANGED = {
    "data.init_args.num_workers": (8, []),
    "data.init_args.val": ([], []),
    "trainer.max_steps": (20, []),
    "trainer.devices": (2, []),
    "model.init_args.metrics": ([{"class_path": "HitRate"}], []),
    "seed_everything": (5, ["seed_everything"]),
    "trainer.accumulate_grad_batches": (2, ["trainer.accumulate_grad_batches"]),
    "data.init_args.batch_size": (8, ["data.init_args.batch_size"]),
    "model.class_path": ("N", ["model.class_path"]),
    "model.init_args.optimizer.init_args.lr": (0.2, ["model.init_args.optimizer.init_args.lr"]),
    "model.init_args.optimizer.init_args.betas": ([0.9, 0.9], ["model.init_args.optimizer.init_args.betas.1"]),
    "model.init_args.lora": ({"r": 2}, ["model.init_args.lora"]),
}


@pytest.mark.parametrize("key", CHANGED)
def test_what_is_trained_is_compared(key):
    value, expected = CHANGED[key]
    now = json.loads(json.dumps(CONFIG))
    *path, last = key.split(".")
    at = now
    for name in path:
        at = at[name]
    at[last] = value
    assert [change.key for change in changes(trained_with(CONFIG), trained_with(now))] == expected


def test_a_change_names_both_values():
    assert str(Change("model.lr", 0.1, None)) == "model.lr null (the checkpoint: 0.1)"


@pytest.mark.parametrize(("restarts", "expected"), [(None, None), ("0", None), ("1", "hpc_ckpt_10.ckpt")])
def test_only_a_requeued_job_takes_what_slurm_left(tmp_path, monkeypatch, restarts, expected):
    for name in ("hpc_ckpt_2.ckpt", "hpc_ckpt_10.ckpt", "hpc_ckpt_x.ckpt"):
        (tmp_path / name).touch()
    monkeypatch.delenv("SLURM_RESTART_COUNT", raising=False)
    if restarts is not None:
        monkeypatch.setenv("SLURM_RESTART_COUNT", restarts)
    assert requeued_checkpoint(tmp_path) == (expected and str(tmp_path / expected))


def starts(run):
    return json.loads((run.folder / "version_0/provenance.json").read_text())["starts"]


@pytest.mark.slow
def test_other_values_are_refused_and_leave_no_trace(tmp_path):
    fit("Embedder", tmp_path)
    before = (tmp_path / "runs/version_0/config.yaml").read_text()
    more = ("--ckpt_path", "last", "--trainer.max_steps", "4")
    refused = fit(
        "Embedder", tmp_path, *more, "--model.optimizer.lr", "0.5", "--data.seed", "3", "--model.loss.temperature", "1"
    )
    assert refused.code == 2
    for told in ("optimizer.init_args.lr 0.5 (the checkpoint: 0.01)", "data.init_args.seed 3 (the checkpoint: null)"):
        assert told in refused.line
    assert "loss.init_args.temperature 1.0 (the checkpoint: 0.05)" in refused.line
    assert "--accept_changes true" in refused.line
    assert (tmp_path / "runs/version_0/config.yaml").read_text() == before
    assert len(starts(refused)) == 1
    other = fit("Embedder", tmp_path, *more, "--model.optimizer", "torch.optim.SGD", "--accept_changes", "true")
    assert other.code == 2
    assert "it cannot go on with model.init_args.optimizer.class_path torch.optim.SGD" in other.line
    free = fit("Embedder", tmp_path, *more, "--data.num_workers", "1", "--data.micro_batch_size", "1")
    assert free.code == 0, free.err
    assert len(starts(free)) == 2


@pytest.mark.slow
@pytest.mark.parametrize("training", ["Embedder", "Reasoner", "EG-RL"])
def test_accepted_changes_are_what_runs(tmp_path, training):
    words = ("--trainer.limit_val_batches", "0")
    fit(training, tmp_path, *words)
    more = ("--ckpt_path", "last", "--trainer.max_steps", "3", "--accept_changes", "true")
    values = (
        "--model.optimizer.lr",
        "0.5",
        "--model.optimizer.betas",
        "[0.5, 0.6]",
        "--model.optimizer.weight_decay",
        "0.2",
    )
    run = fit(training, tmp_path, *words, *more, *values)
    assert run.code == 0, run.err
    saved = torch.load(tmp_path / "runs/version_0/checkpoints/last.ckpt", weights_only=True)
    [group] = saved["optimizer_states"][0]["param_groups"]
    assert (group["lr"], group["initial_lr"], tuple(group["betas"]), group["weight_decay"]) == (
        0.5,
        0.5,
        (0.5, 0.6),
        0.2,
    )
    assert saved["hyper_parameters"]["optimizer"]["init_args"]["lr"] == 0.5
    changed = starts(run)[-1]["changed"]
    assert changed["model.init_args.optimizer.init_args.lr"] == [0.01, 0.5]
    assert starts(run)[-1]["resumed_from"].endswith("last.ckpt")
    # And from here on they are the checkpoint's.
    assert fit(training, tmp_path, *words, "--ckpt_path", "last", "--trainer.max_steps", "4", *values).code == 0


@pytest.mark.slow
@pytest.mark.parametrize("restarts", [0, 1])
def test_a_fresh_run_beside_slurms_checkpoint(tmp_path, monkeypatch, restarts):
    fit("Reasoner", tmp_path)
    root = tmp_path / "runs"
    (root / "version_0/checkpoints/last.ckpt").rename(root / "hpc_ckpt_1.ckpt")
    monkeypatch.setattr("lightning.fabric.plugins.environments.slurm.SLURMEnvironment.detect", lambda: True)
    monkeypatch.setattr(
        "lightning.pytorch.trainer.connectors.accelerator_connector.SLURMEnvironment.detect", lambda: False
    )
    monkeypatch.setenv("SLURM_RESTART_COUNT", str(restarts))
    run = fit("Reasoner", tmp_path, "--trainer.max_steps", "3")
    assert run.code == 0, run.err
    [begun] = json.loads((root / "version_1/provenance.json").read_text())["starts"]
    if restarts:
        assert begun["resumed_from"] == str(root / "hpc_ckpt_1.ckpt")
        assert "SLURM has requeued this job: goes on from" in run.err
    else:
        assert begun["resumed_from"] is None
    assert begun["global_step"] == 3


def test_lightning_takes_no_checkpoint_by_itself(tmp_path, monkeypatch):
    """Also not one that `OnExceptionCheckpoint` has left."""

    class Unrun(TrainingCLI):
        def _run_subcommand(self, subcommand):
            pass

    from tiny_runs import write

    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    trainer: Trainer = start(["fit", "--config", str(write("Reasoner", tmp_path))], Unrun).trainer
    decide = trainer._checkpoint_connector._parse_ckpt_path
    assert decide("fit", None, model_provided=True, model_connected=True) is None


def test_another_module_cannot_go_on():
    from embedrl.training import resume

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resume, "saved_config", lambda _: trained_with(CONFIG))
        other = {**CONFIG, "model": {**CONFIG["model"], "class_path": "N"}}
        with pytest.raises(ConfigError, match=r"cannot go on with model\.class_path N"):
            resume.check_changes("last.ckpt", other, accept=True)
