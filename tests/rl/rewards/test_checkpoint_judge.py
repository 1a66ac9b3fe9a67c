"""A judge that is a model of its own, against plain transformers."""

import pytest
import torch
from transformers import AutoModelForImageTextToText

from embedrl.errors import ConfigError
from embedrl.models.qwen_vl.loading import SHIPPED
from embedrl.models.qwen_vl.reasoner import QwenVLReasoner
from embedrl.rl.rewards.checkpoint_judge import CheckpointJudge
from embedrl.rl.rewards.judge import TOO_LONG, Judge, NeedsScorer, Question


def test_it_takes_the_likeliest_number_as_transformers_reads_the_question():
    judge: Judge = CheckpointJudge(QwenVLReasoner("embedrl:world_base"), device="cpu")
    questions = [Question(f"0/query/{i}", f"the red star {i} [1] the blue star [2] a [3]", 3) for i in range(4)]
    verdicts = judge.choose(questions)
    generator = judge.generator
    assert not generator.training
    assert not any(parameter.requires_grad for parameter in generator.parameters())
    model = AutoModelForImageTextToText.from_pretrained(SHIPPED["embedrl:world_base"], dtype=torch.float32).eval()
    tokenizer, end = generator.processor.tokenizer, generator.preprocessor().end_of_turn
    for question, verdict in zip(questions, verdicts, strict=True):
        prompt = tokenizer.apply_chat_template(
            [{"role": "user", "content": question.prompt}],
            chat_template=generator.processor.chat_template,
            add_generation_prompt=True,
            tokenize=False,
        )
        scores = []
        for number in ("1", "2", "3"):
            before = tokenizer(prompt, return_tensors="pt")["input_ids"]
            ids = tokenizer(f"{prompt}{number}{end}", return_tensors="pt")["input_ids"]
            with torch.no_grad():
                logits = model(input_ids=ids).logits[0]
            logits[:, generator.suppressed] = -torch.inf
            logprobs = logits.log_softmax(1)
            scores.append(sum(logprobs[i - 1, ids[0, i]] for i in range(before.shape[1], ids.shape[1])))
        expected = torch.stack(scores).double().softmax(0)
        assert verdict.probabilities == pytest.approx(expected.tolist(), abs=1e-5)
        assert verdict.index == int(expected.argmax())


def test_it_is_no_judge_that_the_trainer_gives_a_model_and_says_which_one_it_is(checkpoint):
    judge = CheckpointJudge(QwenVLReasoner(str(checkpoint)))
    assert not isinstance(judge, NeedsScorer)
    assert judge.name == f"the judge {checkpoint}"


def test_what_it_cannot_read_is_too_long(checkpoint):
    judge = CheckpointJudge(QwenVLReasoner(str(checkpoint), max_length=40), device="cpu")
    short, long = Question("a", "one [1] two [2]", 2), Question("b", "one " * 60, 2)
    verdicts = judge.choose([long, short])
    assert verdicts[0].cause == TOO_LONG
    assert verdicts[1].index is not None


def test_refuses_what_cannot_judge(checkpoint):
    with pytest.raises(ConfigError, match="Linear does not say how likely"):
        CheckpointJudge(torch.nn.Linear(1, 1))
    with pytest.raises(ConfigError, match=r"judge\.max_tokens"):
        CheckpointJudge(QwenVLReasoner(str(checkpoint)), max_tokens=0)
    with pytest.raises(ConfigError, match=r"judge\.min_mass"):
        CheckpointJudge(QwenVLReasoner(str(checkpoint)), min_mass=2.0)
