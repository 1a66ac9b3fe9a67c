"""Whoever lets a Reasoner write T-CoTs, the writing ends after the last tag: what is evaluated is what was trained."""

import asyncio

import pytest
import torch

from embedrl.commands.reason import write
from embedrl.construction.local_vlm import LocalVLM
from embedrl.data.sft_batches import LessonBatch
from embedrl.inference.tcot_writer import TCoTRequest, generate_tcots
from embedrl.models.qwen_vl.reasoner import QwenVLReasoner
from embedrl.rl.rollout import LocalRollout, RolloutOptions
from embedrl.tcot.chat import reasoning_chat
from embedrl.tcot.schema import STOP
from embedrl.training.greedy_replies import GreedyReplies
from embedrl.types import Lesson, Modality, Role, Side

CPU = torch.device("cpu")
SIDE = Side("the red star")
CHAT = reasoning_chat(SIDE, Role.QUERY, Modality.IMAGE, "brief")
LENGTH = 4


@pytest.fixture(scope="module")
def reasoner():
    """A model that writes the last tag, and goes on writing it."""
    model = QwenVLReasoner("embedrl:world_base")
    model.build()
    model.eval()
    (tag,) = model.processor.tokenizer(STOP[0], add_special_tokens=False)["input_ids"]

    def favour(module, args, logits):
        logits[..., tag] += 1000.0
        return logits

    model.network.get_output_embeddings().register_forward_hook(favour)
    return model


def rollout(model):
    options = RolloutOptions(max_new_tokens=LENGTH, temperature=0)
    return LocalRollout(model, options).generate([CHAT], 1, ["q"])[0][0].text


def evaluation(model):
    request = TCoTRequest(SIDE, Role.QUERY, Modality.IMAGE, "q")
    return next(generate_tcots([request], model, CPU, "brief", 1, LENGTH))[0]


def validation(model):
    greedy = GreedyReplies(model, LENGTH)
    lesson = Lesson(CHAT, "", "tcot", {"modality": Modality.TEXT})
    greedy.write(LessonBatch([dict(model.preprocessor().prompts([CHAT]))], [lesson]), CPU)
    return greedy.rows[0][1]


def annotate(model):
    vlm = LocalVLM("embedrl:world_base", max_tokens=LENGTH, device="cpu")
    vlm.generator = model

    async def ask():
        async with vlm.session():
            return await vlm.write(CHAT)

    return asyncio.run(ask()).text


def reason(model):
    return write(model, SIDE, Role.QUERY, Modality.IMAGE, "brief", LENGTH)


@pytest.mark.parametrize("writer", [rollout, evaluation, validation, annotate, reason])
def test_every_writer_ends_after_the_last_tag(writer, reasoner):
    assert writer(reasoner) == STOP[0]


def test_left_alone_the_model_writes_on(reasoner):
    assert reasoner.generate(reasoner.preprocessor().prompts([CHAT]), LENGTH) == [STOP[0] * LENGTH]
