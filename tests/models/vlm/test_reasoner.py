import functools

import torch
from plain_vlm import CHATS, QUICK, families
from qwen_helpers import image, text, user, video

from embedrl.models.qwen_vl.reasoner import QwenVLReasoner
from embedrl.models.sampling import SamplingOptions
from embedrl.models.vlm.reasoner import VLMReasoner
from embedrl.rl.policy import Group, Policy, PolicyOptions
from embedrl.rl.rollout import LocalRollout, RolloutOptions
from embedrl.types import Lesson

PROMPTS = [chat[:1] for chat in CHATS]
LESSONS = [
    Lesson([user(image(0), text("what is this ?"))], "red star", "a"),
    Lesson([user(text("a longer question without any picture , is it ?"))], "yes , or no", "b"),
    Lesson([user(video(1), text("and then ?"))], "blue circle", "c"),
    Lesson([user(image(1), image(2, (144, 60)), text("both ?"))], "a", "d"),
]


@functools.cache
def built(name, **options):
    model = VLMReasoner(name if "/" in name else f"embedrl:tiny/{name}", **options)
    model.build()
    return model.eval()


def plain(model, chat):
    """The processor's own inputs of a prompt, and the text that it read."""
    row = model.preprocessor().prompt_rows([chat])[0]
    inputs = model.generation_inputs(row)
    read = model.processor.tokenizer.decode(row["input_ids"][0])
    return inputs, read


def longer(name, inputs, ids):
    zeros, ones = torch.zeros(1, len(ids), dtype=torch.long), torch.ones(1, len(ids), dtype=torch.long)
    more = {"input_ids": torch.tensor([ids]), "attention_mask": ones}
    if name == "paligemma":  # what it writes follows its prefix
        more["token_type_ids"] = ones
    kinds = ("mm_token_type_ids", "token_type_ids", "moe_mm_token_type_ids")
    names = [n for n in ("input_ids", "attention_mask", *kinds) if n in inputs]
    return inputs | {n: torch.cat([inputs[n], more.get(n, zeros)], dim=1) for n in names}


@torch.no_grad()
def plain_logits(model, inputs):
    """Logits of every place by the whole model of transformers."""
    if hasattr(model.core, "rope_deltas"):
        model.core.rope_deltas = None
    return model.network(**inputs, use_cache=False).logits[0].float()


@families()
def test_the_loss_is_the_cross_entropy_of_transformers(name):
    model = built(name)
    tokenizer = model.processor.tokenizer
    inputs = model.preprocessor().lessons(LESSONS)
    losses = []
    for row, lesson in enumerate(LESSONS):
        ids = tokenizer(lesson.reply + model.preprocessor().end_of_turn, add_special_tokens=False)["input_ids"]
        labels = inputs["labels"][row]
        assert labels[labels != -100].tolist() == ids
        prompt, _ = plain(model, lesson.chat)
        start = prompt["input_ids"].shape[1]
        logits = plain_logits(model, longer(name, prompt, ids))[start - 1 : -1]
        losses += (-logits.log_softmax(-1)[torch.arange(len(ids)), ids]).tolist()
    with torch.no_grad():
        torch.testing.assert_close(float(model(inputs)), sum(losses) / len(losses), atol=1e-5, rtol=0)


@families()
def test_greedy_replies_equal_a_loop_without_a_cache_and_do_not_depend_on_the_batch(name):
    model = built(name)
    preprocess, banned = model.preprocessor(), model.suppressed
    assert {*range(len(model.processor.tokenizer), len(model.network.get_output_embeddings().weight))} <= {*banned}
    replies = model.generate(preprocess.prompts(PROMPTS), max_new_tokens=5)
    for chat, reply in zip(PROMPTS, replies, strict=True):
        inputs, written = plain(model, chat)[0], []
        for _ in range(5):
            logits = plain_logits(model, inputs)[-1]
            logits[banned] = -torch.inf
            token = int(logits.argmax())
            if token in model.ends:
                break
            written.append(token)
            inputs = longer(name, inputs, [token])
        # The loop reads one reply without, the batch all of them with padding and a cache.
        tokenizer = model.processor.tokenizer
        expected = tokenizer.decode([token for token in written if token != tokenizer.pad_token_id])
        assert reply == preprocess.as_told([expected], preprocess.prompts([chat]))[0]


@families()
def test_samples_have_the_log_probabilities_of_the_policy_pass_and_of_transformers(name):
    model = built(name)
    options = RolloutOptions(max_new_tokens=4, temperature=0.8, seed=3)
    replies = LocalRollout(model, options).generate(PROMPTS, 2, list("abcde"))
    alone = LocalRollout(model, options).generate(PROMPTS[3:4], 2, ["d"])
    assert [r.tokens for r in alone[0]] == [r.tokens for r in replies[3]]
    assert len({r.tokens for r in replies[3]}) == 2
    policy = Policy(model, PolicyOptions(max_tokens=200), temperature=0.8)
    groups = [Group(chat, [r.tokens for r in group]) for chat, group in zip(PROMPTS, replies, strict=True)]
    batches = policy.batches(groups)
    assert sum(len(batch.replies) for batch in batches) == 10
    assert len(batches) > 1
    for batch in batches:
        with torch.no_grad():
            logprobs = policy.log_probs(batch).logprobs
        for (i, j), values in zip(batch.replies, logprobs, strict=True):
            tokens = list(replies[i][j].tokens)
            inputs = plain(model, PROMPTS[i])[0]
            start = inputs["input_ids"].shape[1]
            logits = plain_logits(model, longer(name, inputs, tokens))[start - 1 : -1] / 0.8
            logits[:, model.suppressed] = -torch.inf
            expected = logits.log_softmax(-1)[torch.arange(len(tokens)), tokens]
            torch.testing.assert_close(values[: len(tokens)], expected, atol=2e-5, rtol=0)
            torch.testing.assert_close(torch.tensor(replies[i][j].logprobs), expected, atol=2e-5, rtol=0)


def test_a_qwen3_vl_writes_what_its_own_package_writes(checkpoint):
    ours, theirs = built(str(checkpoint)), QwenVLReasoner(str(checkpoint))
    theirs.build()
    theirs.eval()
    assert set(ours.suppressed) == set(theirs.suppressed)
    options = SamplingOptions(max_new_tokens=6, top_p=0.9)
    drawn = [model.sample(model.preprocessor().prompts(PROMPTS), 3, range(5), options) for model in (ours, theirs)]
    for mine, its in zip(*drawn, strict=True):
        assert [r.tokens for r in mine] == [r.tokens for r in its]
        assert [r.truncated for r in mine] == [r.truncated for r in its]
        for one, other in zip(mine, its, strict=True):
            torch.testing.assert_close(torch.tensor(one.logprobs), torch.tensor(other.logprobs), atol=1e-5, rtol=0)
    scores = [model.score_choices(PROMPTS[:2], [["1", "10"], ["a", "b b", "c"]]) for model in (ours, theirs)]
    for mine, its in zip(*scores, strict=True):
        torch.testing.assert_close(mine, its, atol=1e-5, rtol=0)
    replies = [model.generate(model.preprocessor().prompts(PROMPTS), 6) for model in (ours, theirs)]
    assert replies[0] == replies[1]


def test_a_stop_text_ends_a_sample():
    model = built(QUICK)
    (whole,) = model.sample(model.preprocessor().prompts(PROMPTS[:1]), 1, [0], SamplingOptions(max_new_tokens=8))[0]
    stop = model.processor.tokenizer.decode(whole.tokens[:2])
    options = SamplingOptions(max_new_tokens=8, stop=(stop,))
    (cut,) = model.sample(model.preprocessor().prompts(PROMPTS[:1]), 1, [0], options)[0]
    assert cut.tokens == whole.tokens[: len(cut.tokens)]
    assert len(cut.tokens) <= 2
    assert not cut.truncated
