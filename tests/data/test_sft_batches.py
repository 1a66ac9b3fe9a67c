import random

import pytest
import torch

from embedrl.data.sft_batches import LessonCollator
from embedrl.data.world.lessons.curriculum import Stage, WorldLessons
from embedrl.models.qwen_vl.reasoner import QwenVLReasoner

KINDS = {"describe": 1.0, "watch": 1.0, "where": 1.0, "story": 1.0}


@pytest.fixture(scope="module")
def model():
    reasoner = QwenVLReasoner("embedrl:tiny")
    reasoner.build()
    return reasoner.eval()


@pytest.fixture(scope="module")
def lessons():
    source = WorldLessons([Stage(None, KINDS)], 24)
    return random.Random(0).sample([source[i] for i in range(24)], 24)


def loss(model, batches):
    """Mean over the tokens of all batches, as a training step has it."""
    counts = [int((inputs["labels"] >= 0).sum()) for inputs in batches]
    return sum(model(inputs) * n for inputs, n in zip(batches, counts, strict=True)) / sum(counts)


def padding(batches):
    return sum(int((inputs["attention_mask"] == 0).sum()) for inputs in batches)


def test_lessons_of_like_length_share_a_micro_batch_and_the_loss_stays_that_of_the_batch(model, lessons):
    preprocessor = model.preprocessor()
    batch = LessonCollator(preprocessor, 4, True, "world")(lessons)
    assert len(batch.micro_batches) == 6
    in_order = [preprocessor.lessons(lessons[i : i + 4]) for i in range(0, 24, 4)]
    assert padding(batch.micro_batches) < padding(in_order) / 2
    whole = loss(model, [preprocessor.lessons(lessons)])
    whole.backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    found = loss(model, batch.micro_batches)
    found.backward()
    torch.testing.assert_close(found, whole, rtol=1e-6, atol=0)
    for name, p in model.named_parameters():
        if name in expected:
            assert float((p.grad - expected[name]).norm() / expected[name].norm()) < 1e-5, name
    # The mean of the micro-batches' means is something else.
    means = sum(model(inputs).detach() for inputs in batch.micro_batches) / 6
    assert abs(float(means - whole.detach())) > 1e-3


def test_the_lessons_come_in_the_order_of_the_rows(model, lessons):
    batch = LessonCollator(model.preprocessor(), 5, True, "world")(lessons)
    rows = [row[row >= 0] for inputs in batch.micro_batches for row in inputs["labels"]]
    tokenizer = model.processor.tokenizer
    assert [tokenizer.decode(row) for row in rows] == [lesson.reply + tokenizer.eos_token for lesson in batch.lessons]
