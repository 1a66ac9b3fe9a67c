from types import SimpleNamespace

import pytest
from verifiable import Colours, data

from embedrl.errors import ConfigError, DataError, TooLongError
from embedrl.models.qwen_vl.reasoner import QwenVLReasoner

PREPROCESSOR = QwenVLReasoner("embedrl:tiny", max_length=256).preprocessor()


def batches(rank=0, world_size=1, **options):
    module = data(**options)
    generator = SimpleNamespace(preprocessor=lambda: PREPROCESSOR)
    module.trainer = SimpleNamespace(global_rank=rank, world_size=world_size, overfit_batches=0,
                                     lightning_module=SimpleNamespace(generator=generator))  # fmt: skip
    return list(module.train_dataloader())


def numbers(batch):
    return [lesson.gold["number"] for lesson in batch.lessons]


def test_an_epoch_has_every_lesson_once_with_its_prompt_processed():
    made = batches()
    assert sorted(number for batch in made for number in numbers(batch)) == [0, 1, 2, 3, 4, 5]
    for batch in made:
        expected = PREPROCESSOR.prompt_rows([lesson.chat for lesson in batch.lessons])
        assert [row["input_ids"].tolist() for row in batch.inputs] == [row["input_ids"].tolist() for row in expected]


def test_processes_share_out_the_lessons():
    parts = [[numbers(batch) for batch in batches(rank, 2)] for rank in (0, 1)]
    assert [a + b for a, b in zip(*parts, strict=True)] == [numbers(batch) for batch in batches()]


def test_a_lesson_that_is_too_long_is_named_or_replaced():
    with pytest.raises((DataError, TooLongError), match=r"colours, lesson 2: its prompt has more tokens"):
        batches(train=Colours(6, wrong=(2,)))
    made = batches(train=Colours(6, wrong=(2,)), on_bad="skip")
    assert sorted(number for batch in made for number in numbers(batch)) == [0, 1, 3, 3, 4, 5]
    assert [bad.id for batch in made for bad in batch.skipped] == ["lesson 2"]


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"batch_size": 7}, {"train": None}])
def test_wrong_options(options):
    with pytest.raises(ConfigError, match=r"data\."):
        batches(**options)
