"""One optimizer step of the Reasoner: the gradient of the mean over tokens, one micro-batch's graph at a time."""

import functools
import itertools

import lightning
import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision
from saved_tensors import SavedTensors

from embedrl.data.datamodules.reasoner import ReasonerDataModule
from embedrl.data.sft_batches import LessonCollator
from embedrl.data.world.lessons.curriculum import Stage, WorldLessons
from embedrl.models.qwen_vl.reasoner import QwenVLReasoner
from embedrl.training.reasoner import ReasonerModule

LESSONS = WorldLessons([Stage(None, {"describe": 1.0, "watch": 1.0, "where": 1.0})], 24)


class KeepGradients(torch.optim.SGD):
    """Keeps the gradient of every step."""

    kept: list

    def step(self, closure=None):
        if closure is not None:
            closure()
        names = (
            [p.grad.detach().clone() for p in group["params"] if p.grad is not None] for group in self.param_groups
        )
        self.kept.append(list(itertools.chain(*names)))
        return super().step()


class First:
    """The first lessons, again and again."""

    def __init__(self, different, size):
        self.different, self.size, self.name = different, size, "first"

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        return LESSONS[index % self.different]


class Losses(lightning.Callback):
    def __init__(self):
        self.logged, self.returned = [], []

    def on_train_batch_end(self, trainer, module, outputs, *_):
        self.logged.append(float(trainer.callback_metrics["train/loss"]))
        self.returned.append(float(outputs["loss"]))


def fit(batch_size, micro_batch_size, lessons, different=24, lr=0.0, **options):
    """Train for an epoch without learning anything.

    Returns:
        The module, the gradient of every step, and what was logged.
    """
    torch.manual_seed(0)
    optimizer = functools.partial(KeepGradients, lr=lr)
    module = ReasonerModule(QwenVLReasoner("embedrl:tiny", train_vision=True), optimizer, "constant", warmup_steps=0)
    losses = Losses()
    trainer = lightning.Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[losses], **options,
    )  # fmt: skip
    KeepGradients.kept = []
    trainer.fit(module, ReasonerDataModule(batch_size, micro_batch_size, First(different, lessons), shuffle=False))
    return module, KeepGradients.kept, losses


def one_graph(module, batch_size, micro_batch_size, rows, autocast=False):
    """Loss and gradient of the mean over the tokens of several batches, all in one graph."""
    collate = LessonCollator(module.generator.preprocessor(), micro_batch_size, True, "first")
    batches = [collate([LESSONS[i] for i in rows[a : a + batch_size]]) for a in range(0, len(rows), batch_size)]
    micro_batches = [inputs for batch in batches for inputs in batch.micro_batches]
    counts = [int((inputs["labels"] >= 0).sum()) for inputs in micro_batches]
    module.zero_grad()
    # Without a cache: the gradients of several passes would be added up in bfloat16.
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast, cache_enabled=False):
        losses = [module.generator(inputs) for inputs in micro_batches]
    loss = sum(loss * count for loss, count in zip(losses, counts, strict=True)) / sum(counts)
    loss.backward()
    return float(loss.detach()), [p.grad for p in module.parameters() if p.grad is not None]


def difference(found, expected):
    """Of gradients, relative to the whole one."""
    whole = torch.nn.utils.get_total_norm(expected)
    return float(torch.nn.utils.get_total_norm([a - b for a, b in zip(found, expected, strict=True)]) / whole)


@pytest.mark.parametrize(
    ("batch_size", "micro_batch_size", "accumulate"), [(6, 6, 1), (6, 2, 1), (6, 4, 1), (2, 2, 3), (2, 1, 3)]
)
def test_equals_one_graph(batch_size, micro_batch_size, accumulate):
    """Six lessons an optimizer step; if batches accumulate, the second step has the only one left of the epoch."""
    lessons = 8 if accumulate > 1 else 12
    module, gradients, losses = fit(batch_size, micro_batch_size, lessons, accumulate_grad_batches=accumulate)
    assert len(gradients) == 2
    for step, rows in enumerate((range(6), range(6, lessons))):
        loss, expected = one_graph(module, batch_size, micro_batch_size, rows)
        assert difference(gradients[step], expected) < 1e-6
        assert losses.logged[accumulate - 1 if step == 0 else -1] == pytest.approx(loss, rel=1e-6)


def test_accumulated_batches_equal_one_batch():
    _, (whole,), logged = fit(8, 8, 8)
    module, (parts,), accumulated = fit(4, 2, 8, accumulate_grad_batches=2)
    assert difference(parts, whole) < 1e-5  # lessons are padded to other lengths
    assert accumulated.logged[-1] == pytest.approx(logged.logged[0], rel=1e-5)
    # The mean of the batches' means is something else.
    (first, second) = ([g.clone() for g in one_graph(module, 4, 4, rows)[1]] for rows in (range(4), range(4, 8)))
    assert difference([(a + b) / 2 for a, b in zip(first, second, strict=True)], whole) > 1e-2


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
def test_lower_precision(precision):
    """A scaled loss scales every micro-batch's; bfloat16 gives the gradient of the same passes in one graph."""
    plugin = MixedPrecision(precision, "cpu", torch.amp.GradScaler("cpu", 1024.0) if precision == "16-mixed" else None)
    module, (found,), _ = fit(6, 2, 6, plugins=[plugin])
    _, expected = one_graph(module, 6, 2, range(6), autocast=precision == "bf16-mixed")
    assert difference(found, expected) < (1e-6 if precision == "bf16-mixed" else 2e-2)


def test_what_a_step_returns_is_its_loss():
    _, _, losses = fit(6, 2, 12)
    assert losses.returned == pytest.approx(losses.logged, rel=1e-6)


def test_memory_is_that_of_one_micro_batch():
    """One lesson in one micro-batch of four, and in eight."""
    peaks = {}
    for lessons in (4, 32):
        with SavedTensors() as saved:
            fit(lessons, 4, lessons, different=1)
        assert saved.live == 0
        peaks[lessons] = saved.peak
    assert peaks[4] == peaks[32]
    module = fit(4, 4, 4)[0]
    with SavedTensors() as saved:
        one_graph(module, 4, 4, [0] * 32)
    assert saved.peak > 7 * peaks[4]  # the measure sees graphs that are kept
