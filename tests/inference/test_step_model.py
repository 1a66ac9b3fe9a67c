"""The value of T-CoTs so far."""

import pytest
import torch
from plain_replies import plain_yes

from embedrl.data.render import RenderOptions
from embedrl.data.step_lessons import sections_of, step_chat
from embedrl.data.world import WorldSource
from embedrl.errors import ConfigError, DataError
from embedrl.inference.step_model import StepModel
from embedrl.models.qwen_vl.reasoner import QwenVLReasoner
from embedrl.types import Side


@pytest.fixture(scope="module")
def step_model():
    built = StepModel(QwenVLReasoner("embedrl:tiny"), style="brief")
    built.build(torch.device("cpu"))
    return built


def test_a_value_is_the_share_of_yes_by_plain_cross_entropy(step_model):
    query = WorldSource("vqa", teacher="perfect")[0].query
    sides = [query.with_tcot(so_far) for so_far in ("", *sections_of(query.tcot))]
    values = step_model.values(sides, [f"query {i}" for i in range(4)])
    for side, value in zip(sides, values, strict=True):
        chat = step_chat(side, step_model.render, "brief")
        assert value == pytest.approx(plain_yes(step_model.generator, chat), abs=1e-5)
    assert len({round(value, 6) for value in values}) == 4, "each section counts"
    assert step_model.values([], []) == []


def test_wrong_input(step_model):
    with pytest.raises(ConfigError, match="str does not say how likely its replies are: it cannot value steps"):
        StepModel("x")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="max_tokens is 0"):
        StepModel(step_model.generator, RenderOptions(), max_tokens=0)
    with pytest.raises(DataError, match="toy/query 7: the side is empty"):
        step_model.values([Side("a"), Side("")], ["toy/query 6", "toy/query 7"])
