import copy
import functools
import math
from pathlib import Path

import pytest
import torch
from fake_backbone import FakeBackbone, FakeData, MeanRelevantScore, contrastive_batch
from lightning import Callback, Trainer
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.loggers import CSVLogger
from processes import finish, start

from embedrl.errors import CheckpointError, ConfigError, NonFiniteError
from embedrl.losses.info_nce import InfoNCE
from embedrl.metrics.ranking import rank
from embedrl.metrics.retrieval import NDCG, HitRate, mean_metrics
from embedrl.training.checkpoints import config_form
from embedrl.training.embedder import EmbedderModule

ADAMW = functools.partial(torch.optim.AdamW, lr=1e-2, weight_decay=0.01)


def make_module(backbone=None, **options):
    options = {"optimizer": ADAMW, "warmup_steps": 2, "seed": 3, **options}
    return EmbedderModule(backbone or FakeBackbone(), InfoNCE(0.05), **options)


def make_trainer(max_steps, *callbacks, **options):
    options = {"logger": False, "enable_checkpointing": False, "limit_val_batches": 0, **options}
    return Trainer(
        accelerator="cpu",
        devices=1,
        max_steps=max_steps,
        max_epochs=-1,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        callbacks=list(callbacks),
        use_distributed_sampler=False,
        **options,
    )


class KilledError(Exception):
    pass


class Recorder(Callback):
    """Losses, learning rates and gradient norms of every step; saves and dies where told."""

    def __init__(self, stop=None, path=None):
        self.stop, self.path, self.rows = stop, path, []

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        logged = trainer.logged_metrics
        self.rows.append(tuple(logged[f"train/{k}"].item() for k in ("loss", "lr", "grad_norm")))
        if trainer.global_step == self.stop:
            trainer.save_checkpoint(self.path)
            raise KilledError


class Accumulated(Callback):
    """The loss of every batch and the rate of every step, and what is logged of them."""

    def __init__(self):
        self.losses, self.rates, self.logged = [], [], []

    def on_before_optimizer_step(self, trainer, module, optimizer):
        self.rates.append(optimizer.param_groups[0]["lr"])

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.losses.append(float(outputs["loss"]) * trainer.accumulate_grad_batches)  # Lightning divides it
        if not trainer.fit_loop._should_accumulate():
            self.logged.append({name: float(trainer.logged_metrics[f"train/{name}"]) for name in ("loss", "lr")})


@pytest.mark.filterwarnings("ignore")
def test_of_accumulated_batches_the_mean_is_logged_with_the_rate_of_their_step():
    seen = Accumulated()
    make_trainer(3, seen, accumulate_grad_batches=3).fit(make_module(), datamodule=FakeData(12))
    means = torch.tensor(seen.losses, dtype=torch.float64).view(3, 3).mean(1)
    assert [row["loss"] for row in seen.logged] == pytest.approx(means.tolist(), rel=1e-5)
    assert [row["lr"] for row in seen.logged] == pytest.approx(seen.rates)
    assert len(set(seen.rates)) == 3


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("batches", [12, 4])
def test_resumed_run_repeats_the_uninterrupted_one_bitwise(tmp_path, batches):
    whole, first, rest = Recorder(), Recorder(stop=5, path=tmp_path / "five.ckpt"), Recorder()
    options = {"gradient_clip_val": 0.5}
    make_trainer(12, whole, **options).fit(make_module(), datamodule=FakeData(batches))
    with pytest.raises(KilledError):
        make_trainer(12, first, **options).fit(make_module(), datamodule=FakeData(batches))
    torch.manual_seed(99)
    path = tmp_path / "five.ckpt"
    make_trainer(12, rest, **options).fit(
        make_module(), datamodule=FakeData(batches), ckpt_path=path, weights_only=True
    )
    assert len(whole.rows) == 12
    assert len(first.rows) == 5
    assert first.rows + rest.rows == whole.rows
    assert all(math.isfinite(x) for row in whole.rows for x in row)
    assert whole.rows[-1][0] < whole.rows[0][0]


@pytest.mark.filterwarnings("ignore")
def test_the_step_is_the_one_pass_step(tmp_path):
    """Micro-batches, accumulation over batches and clipping give what a plain loop over whole batches gives."""
    module = make_module(
        FakeBackbone(dropout=0.0), optimizer=functools.partial(torch.optim.SGD, lr=1.0), warmup_steps=0
    )
    module.schedule = "constant"
    make_trainer(2, gradient_clip_val=0.5, accumulate_grad_batches=2).fit(module, datamodule=FakeData(4))
    reference = FakeBackbone(dropout=0.0)
    reference.build()
    trained = [p for p in reference.parameters() if p.requires_grad]
    for steps in ((0, 1), (2, 3)):
        for step in steps:
            batch = contrastive_batch(step, micro_batch_size=10_000)
            flat = reference(batch.micro_batches[0])[batch.order.argsort()]
            loss, _ = module.contrast(flat, batch)
            (loss / 2).backward()
        torch.nn.utils.clip_grad_norm_(trained, 0.5)
        for p in trained:
            p.data -= p.grad
            p.grad = None
    for mine, theirs in zip(module.backbone.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("ignore")
def test_warm_up_then_cosine_to_the_last_step():
    recorder = Recorder()
    make_trainer(10, recorder).fit(make_module(), datamodule=FakeData())
    rates = [lr for _, lr, _ in recorder.rows]
    expected = [0, 0.5, *(0.5 * (1 + math.cos(math.pi * i / 8)) for i in range(8))]
    assert rates == pytest.approx([1e-2 * x for x in expected])


@pytest.mark.filterwarnings("ignore")
def test_scores_and_log_names(tmp_path):
    module, data = make_module(), FakeData(3)
    trainer = make_trainer(3, logger=CSVLogger(tmp_path), limit_val_batches=1.0)
    trainer.fit(module, datamodule=data)
    header = next(iter(Path(tmp_path).rglob("metrics.csv"))).read_text().splitlines()[0].split(",")
    named = {f"val/{t}{k}" for t in ("alpha/", "beta/", "") for k in ("hit@1", "hit@5", "hit@10", "ndcg@5")}
    training = {
        "loss",
        "lr",
        "grad_norm",
        "pairs_per_s",
        "hit@1",
        "masked",
        "similarity_positive",
        "similarity_negative",
    }
    assert {*named, *(f"train/{k}" for k in training), "data/skipped", "data/raw_sides"} <= set(header)
    assert trainer.logged_metrics["data/skipped"] == 1
    module.eval()
    for result, (task, queries, candidates) in zip(module.validation, data.made, strict=True):
        with torch.no_grad():
            q, c = module.backbone({"x": queries}), module.backbone({"x": candidates})
        torch.testing.assert_close(result.queries, q)
        torch.testing.assert_close(result.candidates, c)
        expected = mean_metrics(rank(q, c, task.qrels))
        names = {"hit@1": "hit@1", "hit@5": "hit@5", "hit@10": "hit@10", "ndcg@5": "ndcg_linear@5"}
        assert result.metrics == pytest.approx({name: expected[theirs] for name, theirs in names.items()})
        assert trainer.logged_metrics[f"val/{task.name}/ndcg@5"] == pytest.approx(expected["ndcg_linear@5"])
        assert result.metrics["hit@5"] > 0.5
    means = [r.metrics["hit@1"] for r in module.validation]
    assert trainer.logged_metrics["val/hit@1"] == pytest.approx(sum(means) / 2)
    tested = trainer.test(module, datamodule=data, verbose=False)[0]
    assert tested["test/hit@1"] == pytest.approx(sum(means) / 2)
    (first, *_) = trainer.predict(module, datamodule=data)
    order = [places[0].position for places in first["items"]]
    torch.testing.assert_close(first["vectors"], module.validation[0].queries[order])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("limit", "scored"), [(1, []), (2, ["alpha"]), (1.0, ["alpha", "beta"])])
def test_a_limited_validation_scores_the_whole_tasks_only(limit, scored):
    trainer = make_trainer(1, limit_val_batches=limit)
    module = make_module()
    trainer.validate(module, datamodule=FakeData(), verbose=False)
    assert [r.task.name for r in module.validation] == scored


@pytest.mark.filterwarnings("ignore")
def test_missing_vectors_are_an_error():
    data = FakeData()
    data.tasks.append(data.made[0][0])
    with pytest.raises(RuntimeError, match="every side of the task alpha"):
        make_trainer(1, limit_val_batches=1.0).validate(make_module(), datamodule=data, verbose=False)


# -------------------------------------------------------------------- checkpoints


def reload(paths):
    for path in paths:
        module = EmbedderModule.load_from_checkpoint(path, weights_only=True)
        module.eval()
        torch.save((module.backbone({"x": torch.ones(3, 8)}).detach(), dict(module.hparams)), path + ".out")


class Cli(LightningCLI):
    def _parse_ckpt_path(self):
        """The command line decides, not the checkpoint."""


def run_cli(tmp_path, *extra):
    config = tmp_path / "config.yaml"
    config.write_text(
        "model:\n"
        "  backbone: {class_path: fake_backbone.FakeBackbone, init_args: {dim: 8}}\n"
        "  loss: {class_path: embedrl.losses.InfoNCE, init_args: {temperature: 0.05}}\n"
        "  optimizer: {class_path: torch.optim.AdamW, init_args: {lr: 0.01}}\n"
        "  warmup_steps: 1\n"
        "  metrics:\n"
        "    - {class_path: embedrl.metrics.HitRate, init_args: {k: 3}}\n"
        "    - {class_path: embedrl.metrics.NDCG, init_args: {k: 15, gain: exponential}}\n"
        "    - {class_path: fake_backbone.MeanRelevantScore, init_args: {scale: 2.0}}\n"
        "data: {batches: 2}\n"
        "trainer: {max_steps: 2, accelerator: cpu, devices: 1, logger: false, enable_progress_bar: false,\n"
        f"  enable_model_summary: false, limit_val_batches: 0, default_root_dir: {tmp_path}}}\n"
    )
    cli = Cli(
        EmbedderModule,
        FakeData,
        args=["fit", "--config", str(config), *extra],
        auto_configure_optimizers=False,
        save_config_callback=None,
    )
    return cli.trainer, cli.model


def run_python(tmp_path):
    module = make_module(FakeBackbone(dim=8), metrics=[HitRate(3), NDCG(15, "exponential"), MeanRelevantScore(2.0)])
    trainer = make_trainer(2)
    trainer.fit(module, datamodule=FakeData(2))
    return trainer, module


@pytest.mark.filterwarnings("ignore")
def test_checkpoints_rebuild_the_module_in_a_fresh_process(tmp_path):
    runs = {str(tmp_path / f"{run.__name__}.ckpt"): run(tmp_path) for run in (run_cli, run_python)}
    for path, (trainer, _) in runs.items():
        trainer.save_checkpoint(path)
        saved = torch.load(path, weights_only=True)
        assert set(saved["state_dict"]) == {f"backbone.net.{name}" for name in ("3.0.weight", "3.0.bias", "5.weight")}
        assert saved["hyper_parameters"]["backbone"]["class_path"] == "fake_backbone.FakeBackbone"
    finish([start(reload, (list(runs),), tmp_path / "fresh.log")], tmp_path)
    for path, (_, module) in runs.items():
        vectors, hparams = torch.load(path + ".out", weights_only=True)
        module.eval()
        torch.testing.assert_close(vectors, module.backbone({"x": torch.ones(3, 8)}), rtol=0, atol=0)
        loss = {
            "temperature": 0.05,
            "mask_duplicates": True,
            "false_negative_margin": None,
            "extra_negatives": [],
            "hardness": 0.0,
        }
        assert hparams["loss"] == {"class_path": "embedrl.losses.InfoNCE", "init_args": loss}
        assert hparams["optimizer"]["class_path"].startswith("torch.optim.")
        assert [metric["init_args"] for metric in hparams["metrics"]] == [
            {"k": 3},
            {"k": 15, "gain": "exponential"},
            {"scale": 2.0},
        ]


@pytest.mark.filterwarnings("ignore")
def test_a_yaml_names_the_metrics_of_a_validation(tmp_path):
    trainer, module = run_cli(tmp_path, "--trainer.limit_val_batches", "1.0")
    named = {f"val/{t}{k}" for t in ("alpha/", "beta/", "") for k in ("hit@3", "ndcg_exponential@15", "relevant_score")}
    logged = {name: value for name, value in trainer.logged_metrics.items() if name.startswith("val/")}
    assert set(logged) == named | {"val/alpha/delta_s", "val/beta/delta_s", "val/delta_s"}
    for result in module.validation:
        ranking = rank(result.queries, result.candidates, result.task.qrels, k=15)
        right = [(q @ result.candidates[i]).item() for i, q in enumerate(result.queries)]
        assert {i: value for i, value in enumerate(ranking.relevance.sum(1)) if value != 1} == {}, "all within 15"
        expected = mean_metrics(ranking, ks=(3, 15))
        for name in ("hit@3", "ndcg_exponential@15"):
            assert logged[f"val/{result.task.name}/{name}"] == pytest.approx(expected[name])
        assert logged[f"val/{result.task.name}/relevant_score"] == pytest.approx(2 * sum(right) / 7, abs=1e-6)


@pytest.mark.parametrize("metrics", [[], [HitRate(3), HitRate(3)]])
def test_metrics_that_cannot_be_told_apart_are_refused(metrics):
    with pytest.raises(ConfigError, match=r"model\.metrics"):
        make_module(metrics=metrics)


@pytest.mark.filterwarnings("ignore")
def test_a_reloaded_module_can_be_trained_and_saved_again(tmp_path):
    trainer, _ = run_cli(tmp_path)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    reloaded = EmbedderModule.load_from_checkpoint(tmp_path / "a.ckpt")
    trainer = make_trainer(3)
    trainer.fit(reloaded, datamodule=FakeData(3))
    trainer.save_checkpoint(tmp_path / "b.ckpt")
    again = EmbedderModule.load_from_checkpoint(tmp_path / "b.ckpt", weights_only=True)
    assert again.backbone.dim == 8
    assert again.optimizer([torch.nn.Parameter(torch.zeros(1))]).defaults["lr"] == 0.01


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("backbone.net.5.weight"), "trains, but the checkpoint lacks, 1 keys .backbone.net.5.weight"),
        (lambda s: s.update({"backbone.other": torch.zeros(1)}), "does not know 1 keys .backbone.other"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused(tmp_path, change, message):
    trainer, _ = run_python(tmp_path)
    path = tmp_path / "a.ckpt"
    trainer.save_checkpoint(path)
    saved = torch.load(path, weights_only=True)
    change(saved["state_dict"])
    torch.save(saved, path)
    with pytest.raises(CheckpointError, match=message):
        EmbedderModule.load_from_checkpoint(path)
    with pytest.raises(CheckpointError, match=message):
        make_trainer(3).fit(make_module(FakeBackbone(dim=8)), datamodule=FakeData(3), ckpt_path=path)


def test_frozen_weights_in_a_checkpoint_are_welcome():
    module = make_module()
    module.configure_model()
    state = copy.deepcopy(module.state_dict())
    state["backbone.net.0.weight"] += 1
    module.load_state_dict(state)
    assert torch.equal(module.backbone.net[0].weight, state["backbone.net.0.weight"])


def test_config_form_of_what_cannot_be_written():
    class Forgetful:
        def __init__(self, size):
            pass

    with pytest.raises(ConfigError, match="keep its argument 'size'"):
        config_form(Forgetful(3))
    with pytest.raises(ConfigError, match=r"functools\.partial"):
        config_form(lambda params: torch.optim.AdamW(params))


# -------------------------------------------------------------------- errors


class Poisoned(FakeData):
    def _train_batch(self, step):
        batch = super()._train_batch(step)
        if step == 1:
            # Flat position 8 is pair 8's query.
            row = int((batch.order == 8).nonzero())
            batch.micro_batches[row // self.micro_batch_size]["x"][row % self.micro_batch_size] = torch.nan
        return batch


@pytest.mark.filterwarnings("ignore")
def test_non_finite_vectors_name_the_step_and_the_sample():
    with pytest.raises(NonFiniteError, match=r"step 1: 1 vectors are not finite in fake/id8;"):
        make_trainer(3).fit(make_module(), datamodule=Poisoned())


@pytest.mark.filterwarnings("ignore")
def test_a_non_finite_gradient_names_the_step():
    with pytest.raises(NonFiniteError, match="step 0: the gradient is not finite"):
        make_trainer(3).fit(make_module(FakeBackbone(poison="gradient")), datamodule=FakeData())


@pytest.mark.filterwarnings("ignore")
def test_non_finite_vectors_in_validation_name_the_side():
    data = FakeData()
    data.made[1][2][5] = math.inf
    data.made[1][2][5, 0] = -math.inf
    data.made[1][2][5, 1] = math.nan
    with pytest.raises(NonFiniteError, match="beta/candidate 5"):
        make_trainer(1, limit_val_batches=1.0).validate(make_module(), datamodule=data, verbose=False)


class LearnedTemperature(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.zeros(()))


def test_a_loss_with_parameters_is_refused():
    with pytest.raises(ConfigError, match=r"model\.loss has trainable parameters"):
        EmbedderModule(FakeBackbone(), LearnedTemperature(), ADAMW)


@pytest.mark.filterwarnings("ignore")
def test_endless_training_and_missing_tasks_are_refused():
    with pytest.raises(ConfigError, match=r"trainer\.max_steps"):
        make_trainer(-1).fit(make_module(), datamodule=FakeData())
    data = FakeData()
    data.tasks = []
    with pytest.raises(ConfigError, match="nothing to score"):
        make_trainer(1, limit_val_batches=1.0).validate(make_module(), datamodule=data, verbose=False)
