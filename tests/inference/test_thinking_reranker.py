import pytest
import torch

from embedrl.data.rerank_thoughts import verdict_chat
from embedrl.data.world import WorldTasks
from embedrl.errors import ConfigError, DataError
from embedrl.index.models import load_reranker
from embedrl.inference.reranker import Reranker
from embedrl.inference.thinking_reranker import ThinkingReranker
from embedrl.models.qwen_vl.reasoner import QwenVLReasoner
from embedrl.types import Side

LONGEST = 5


@pytest.fixture(scope="module")
def reranker():
    built = ThinkingReranker(QwenVLReasoner("embedrl:tiny"), style="brief", max_new_tokens=LONGEST, max_tokens=300)
    built.build(torch.device("cpu"))
    return built


@pytest.fixture(scope="module")
def task():
    return WorldTasks("val", 3, ["grounding"], decoys=1).tasks()[0]


class ByHand:
    """One question at a time, one token at a time: no batch, no packing, no cache."""

    def __init__(self, reranker, query, candidate):
        self.generator = reranker.generator
        self.tokenizer = self.generator.processor.tokenizer
        self.prompt = self.generator.preprocessor().prompts(
            [verdict_chat(query, candidate, reranker.render, reranker.style)]
        )

    def next_token(self, tokens):
        """Log-probabilities of the token behind the prompt and `tokens`."""
        more = {"input_ids": torch.tensor([tokens], dtype=torch.long)}
        more |= {"attention_mask": torch.ones(1, len(tokens), dtype=torch.long)}
        more |= {"mm_token_type_ids": torch.zeros(1, len(tokens), dtype=torch.long)}
        whole = self.prompt | {name: torch.cat([self.prompt[name], row], dim=1) for name, row in more.items()}
        whole.pop("position_ids", None)  # the network makes them itself
        with torch.no_grad():
            logits = self.generator.network(**whole, use_cache=False).logits[0, -1].float()
        logits[self.generator.suppressed] = -torch.inf
        return logits.log_softmax(-1)

    def thought(self):
        tokens = []
        while len(tokens) < LONGEST and "</think>" not in self.tokenizer.decode(tokens):
            tokens.append(int(self.next_token(tokens).argmax()))
        return self.tokenizer.decode(tokens).partition("</think>")[0]

    def logprob(self, text, given):
        """Of the tokens of `text` behind those of `given`, with which it begins."""
        tokens = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        start = len(self.tokenizer(given, add_special_tokens=False)["input_ids"])
        return sum(float(self.next_token(tokens[:i])[tokens[i]]) for i in range(start, len(tokens)))

    def logit(self, thought):
        begin = f"{thought}</think><answer>"
        return self.logprob(f"{begin}relevant</answer>", begin) - self.logprob(f"{begin}irrelevant</answer>", begin)


def test_a_thought_that_is_cut_off_is_followed_by_the_verdict(reranker, task):
    """Three questions of unlike length, which do not fit into one batch."""
    query, candidates = task.queries[0], [*task.candidates[:2], Side("a red star")]
    logits = reranker.logits(query, candidates)
    for side, logit in zip(candidates, logits.tolist(), strict=True):
        by_hand = ByHand(reranker, query, side)
        assert logit == pytest.approx(by_hand.logit(by_hand.thought()), abs=1e-4)
    assert reranker.score(query, candidates).tolist() == pytest.approx(logits.sigmoid().tolist())
    assert reranker.score(query, []).shape == (0,)


def test_the_verdict_follows_the_end_of_the_thought(reranker, task, monkeypatch):
    """Whatever the model wrote behind it."""
    written = ["<think>asked : red star .</think><answer>relevant</answer>", "<think></think>"]
    monkeypatch.setattr(reranker.generator, "generate", lambda inputs, longest, stop: written)
    monkeypatch.setattr(reranker, "max_tokens", 10_000)
    logits = reranker.logits(task.queries[0], task.candidates[:2]).tolist()
    for side, thought, logit in zip(task.candidates[:2], ["<think>asked : red star .", "<think>"], logits, strict=True):
        assert logit == pytest.approx(ByHand(reranker, task.queries[0], side).logit(thought), abs=1e-4)


def test_wrong_input(reranker):
    with pytest.raises(ConfigError, match="max_new_tokens is 0"):
        ThinkingReranker(reranker.generator, max_new_tokens=0)
    with pytest.raises(DataError, match="my query candidate: the side is empty"):
        reranker.score(Side("x"), [Side("")], "my query")


def test_the_flag_chooses_the_kind_and_needs_a_model():
    assert type(load_reranker("embedrl:tiny", "cpu", "brief")) is Reranker
    thinking = load_reranker("embedrl:tiny", "cpu", "brief", think=7)
    assert isinstance(thinking, ThinkingReranker)
    assert thinking.max_new_tokens == 7
    assert load_reranker(None, "cpu") is None
    with pytest.raises(ConfigError, match="--think is 7, but no model is given"):
        load_reranker(None, "cpu", think=7)
    for name in ("embedrl:tiny", None):
        with pytest.raises(ConfigError, match="--think is -1"):
            load_reranker(name, "cpu", think=-1)
