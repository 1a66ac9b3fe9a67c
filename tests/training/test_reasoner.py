import functools
import json

import lightning
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText

from embedrl.data.datamodules.reasoner import ReasonerDataModule
from embedrl.data.sft_batches import LessonCollator, LessonSampler
from embedrl.data.world.lessons.curriculum import Stage, WorldExam, WorldLessons
from embedrl.errors import ConfigError
from embedrl.models.qwen_vl.reasoner import QwenVLReasoner
from embedrl.training.callbacks.export_model import ExportModel
from embedrl.training.reasoner import ReasonerModule

KINDS = {"describe": 1.0, "watch": 1.0, "where": 1.0}


def module(path="embedrl:tiny", lr=1e-3):
    return ReasonerModule(
        QwenVLReasoner(str(path), train_vision=True),
        functools.partial(torch.optim.AdamW, lr=lr),
        warmup_steps=2,
        max_new_tokens=4,
    )


def data(micro_batch_size=4, workers=0, **options):
    return ReasonerDataModule(
        4,
        micro_batch_size,
        train=WorldLessons([Stage(None, KINDS)], 40),
        val=WorldExam(["where", "point", "moment"], each=2),
        generate_batch_size=4,
        num_workers=workers,
        **options,
    )


def trainer(folder, steps, **options):
    return lightning.Trainer(
        accelerator="cpu",
        default_root_dir=folder,
        max_steps=steps,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        **options,
    )


class Losses(lightning.Callback):
    def __init__(self):
        self.seen = []

    def on_train_batch_end(self, trainer, *_):
        self.seen.append(float(trainer.callback_metrics["train/loss"]))


def test_fit_logs_every_kind_learns_and_ships_a_checkpoint(tmp_path):
    model, losses = module(), Losses()
    ship = ExportModel(str(tmp_path / "out"), half=True)
    fit = trainer(tmp_path, 6, val_check_interval=6, check_val_every_n_epoch=None, callbacks=[losses, ship])
    fit.fit(model, data())
    assert losses.seen[-1] < losses.seen[0] - 0.5
    logged = {name for name in fit.callback_metrics if name.startswith("val/")}
    assert {"val/where/answer", "val/point/iou", "val/moment/f1", "val/exact", "val/iou"} <= logged
    assert len(model.replies) == 6
    facts = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert facts["steps"] == 6
    assert facts["held_out"]["where"].keys() == {"answer", "exact"}
    halves = load_file(tmp_path / "out" / "model.safetensors")
    assert {t.dtype for t in halves.values()} == {torch.float16}
    shipped = AutoModelForImageTextToText.from_pretrained(tmp_path / "out").state_dict()
    for name, tensor in model.generator.network.state_dict().items():
        assert shipped[name].dtype == torch.float32
        torch.testing.assert_close(shipped[name], tensor, atol=1e-4, rtol=1e-3)


def test_the_loss_does_not_depend_on_micro_batches():
    model = module()
    model.configure_model()
    model.generator.eval()
    lessons = [WorldLessons([Stage(None, KINDS)], 40)[i] for i in range(6)]
    totals = []
    for size in (6, 2):
        batch = LessonCollator(model.generator.preprocessor(), size, True, "world")(lessons)
        assert len(batch.micro_batches) == 6 // size
        counts = [int((m["labels"] >= 0).sum()) for m in batch.micro_batches]
        losses = [model.generator(m) for m in batch.micro_batches]
        totals.append(sum(loss * count for loss, count in zip(losses, counts, strict=True)) / sum(counts))
    torch.testing.assert_close(*totals)


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_resumed_run_repeats_the_losses_exactly(tmp_path, workers):
    whole = Losses()
    trainer(tmp_path, 5, callbacks=[whole]).fit(module(), data(workers=workers, shuffle=True))
    # The same schedule, stopped after the third step.
    first = trainer(tmp_path, 5, callbacks=[StopAfter(3)])
    first.fit(module(), data(workers=workers, shuffle=True))
    first.save_checkpoint(tmp_path / "a.ckpt")
    rest = Losses()
    trainer(tmp_path, 5, callbacks=[rest]).fit(
        module(), data(workers=workers, shuffle=True), ckpt_path=tmp_path / "a.ckpt", weights_only=True
    )
    assert rest.seen == whole.seen[3:]


class StopAfter(lightning.Callback):
    def __init__(self, steps):
        self.steps = steps

    def on_train_batch_end(self, trainer, *_):
        trainer.should_stop = trainer.global_step >= self.steps


def test_a_checkpoint_rebuilds_its_module(tmp_path):
    model = module()
    fit = trainer(tmp_path, 1)
    fit.fit(model, data())
    fit.save_checkpoint(tmp_path / "a.ckpt")
    again = ReasonerModule.load_from_checkpoint(tmp_path / "a.ckpt", weights_only=True)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name])


@pytest.mark.parametrize("shuffle", [False, True])
def test_every_rank_gets_its_share_and_every_lesson_comes_once(shuffle):
    samplers = [LessonSampler(22, 4, shuffle, rank=rank, world_size=2) for rank in (0, 1)]
    batches = [a + b for a, b in zip(*samplers, strict=True)]
    assert len(batches) == len(samplers[0]) == 5
    rows = [row for batch in batches for row in batch]
    assert len(set(rows)) == 20
    assert (rows == list(range(20))) != shuffle
    before = [list(b) for b in samplers[0]]
    samplers[0].start = 2
    assert [list(b) for b in samplers[0]][:3] == before[2:]
    samplers[0].start = 5
    assert ([list(b) for b in samplers[0]] != before) == shuffle


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: LessonSampler(10, 3, world_size=2), "not a multiple of the 2 processes"),
        (lambda: LessonSampler(2, 3), "fewer than data.batch_size 3"),
        (lambda: LessonCollator(None, 0, True, "x"), "micro_batch_size is 0"),
    ],
)
def test_settings_that_cannot_be_met(build, message):
    with pytest.raises(ConfigError, match=message):
        build()


def test_fit_without_lessons_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match=r"data\.train is missing"):
        trainer(tmp_path, 1).fit(module(), ReasonerDataModule(4, 4))
