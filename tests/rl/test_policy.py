import random

import pytest
import torch
from policy_helpers import PROMPTS, plain_logprobs, policy_model, random_replies

from embedrl.errors import ConfigError
from embedrl.models import packing
from embedrl.models.attention_mask import block_mask
from embedrl.models.dropout import as_in_forward
from embedrl.models.qwen_vl.reasoner import QwenVLReasoner
from embedrl.rl.mismatch import unexplained
from embedrl.rl.policy import Group, Policy, PolicyOptions
from embedrl.rl.rollout import LocalRollout, RolloutOptions

COUNTS = (4, 1, 3, 2)  # groups whose other rollouts were left out


def weights_of(i, j, steps):
    """Any fixed weight of every token's log-probability and entropy in the loss."""
    return torch.randn(2, steps, generator=torch.Generator().manual_seed(100 * i + j))


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def loss_of_pass(policy, groups):
    loss = torch.zeros(())
    for batch in policy.batches(groups):
        found = policy.log_probs(batch)
        for (i, j), logprobs, entropy in zip(batch.replies, found.logprobs, found.entropy, strict=True):
            n = len(groups[i].replies[j])
            assert (logprobs[n:] == 0).all()
            a, b = weights_of(i, j, n)
            loss = loss + a @ logprobs[:n] + 0.1 * b @ entropy[:n]
    return loss


def loss_of_transformers(model, groups, temperature):
    loss = torch.zeros(())
    for i, group in enumerate(groups):
        for j, (logprobs, entropy, mask) in enumerate(
            zip(*plain_logprobs(model, group.prompt, group.replies, temperature), strict=True)
        ):
            a, b = weights_of(i, j, int(mask.sum()))
            loss = loss + a @ logprobs[mask] + 0.1 * b @ entropy[mask]
    return loss


def assert_same(model, policy, groups):
    """Loss and every gradient within 1e-5, relative."""
    ours = loss_of_pass(policy, groups)
    got = gradients(model, ours)
    plain = loss_of_transformers(model, groups, policy.temperature)
    expected = gradients(model, plain)
    torch.testing.assert_close(ours, plain, rtol=1e-5, atol=0)
    assert got.keys() == expected.keys()
    assert expected
    for name, value in expected.items():
        assert float((got[name] - value).norm() / value.norm()) < 1e-5, name


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("lora", [True, False])
def test_loss_and_gradients_equal_plain_transformers_on_every_kind_of_prompt(lora, checkpointing, attention):
    model = policy_model(lora, gradient_checkpointing=checkpointing, path="embedrl:world_base")
    model.core.set_attn_implementation(attention)
    model.attn_implementation = attention
    groups = [
        Group(chat, replies)
        for chat, replies in zip(PROMPTS.values(), random_replies(model, COUNTS), strict=True)
    ]  # fmt: skip
    policy = Policy(model, temperature=0.8)
    assert len(policy.batches(groups)) == 1
    assert_same(model, policy, groups)


@pytest.mark.parametrize("kind", PROMPTS)
def test_a_group_of_each_kind_alone(kind):
    model = policy_model()
    assert_same(model, Policy(model), [Group(PROMPTS[kind], random_replies(model, [8], 20)[0])])


@pytest.mark.parametrize(
    "options",
    [{"shared_prefix": False}, {"max_tokens_per_row": 60}, {"max_tokens": 1}, {"max_tokens_per_row": 1}],
    ids=str,
)
def test_however_it_is_cut_up_every_reply_counts_once(options):
    model = policy_model()
    groups = [
        Group(chat, replies)
        for chat, replies in zip(PROMPTS.values(), random_replies(model, (8, 8, 1, 5), 12), strict=True)
    ]
    policy = Policy(model, PolicyOptions(**options))
    batches = policy.batches(groups)
    found = [name for batch in batches for name in batch.replies]
    assert sorted(found) == [(i, j) for i, group in enumerate(groups) for j in range(len(group.replies))]
    rows = sum(len(batch.pack()["input_ids"]) for batch in batches)
    if options == {"shared_prefix": False} or options == {"max_tokens_per_row": 1}:
        assert rows == 22
    elif "max_tokens_per_row" in options:
        assert 4 < rows < 22
    else:
        assert len(batches) == rows == 4
    assert_same(model, policy, groups)


def test_a_row_keeps_to_its_limit():
    model = policy_model()
    group = Group(PROMPTS["image"], random_replies(model, [9], 12)[0])
    limit = model.preprocessor().length(group.prompt) + 25
    [batch] = Policy(model, PolicyOptions(max_tokens_per_row=limit)).batches([group])
    width = batch.pack()["input_ids"].shape[1]
    rows = {}
    for (_, j), sources in zip(batch.replies, batch.pack()["sources"], strict=True):
        rows.setdefault(int(sources[0]) // width, []).append(j)
    lengths = [len(reply) for reply in group.replies]
    assert sorted(j for row in rows.values() for j in row) == list(range(9))
    for row in rows.values():
        assert sum(lengths[j] for j in row) <= 25
        assert row[-1] == 8 or sum(lengths[row[0] : row[-1] + 2]) > 25  # the next one would not have fitted
    assert 2 < len(rows) < 9


def test_batches_hold_rows_of_like_length_within_the_limit():
    model = policy_model()
    groups = [Group(PROMPTS["image"], replies) for replies in random_replies(model, [4] * 12, 30)]
    random.Random(0).shuffle(groups)
    batches = Policy(model, PolicyOptions(max_tokens=400)).batches(groups)
    sizes = [batch.pack()["input_ids"].shape for batch in batches]
    assert [width for _, width in sizes] == sorted(width for _, width in sizes)
    # The length of a prompt is an estimate.
    error = model.preprocessor().prompts([PROMPTS["image"]])["input_ids"].shape[1] - model.preprocessor().length(
        PROMPTS["image"]
    )
    assert all(rows * (width - error) <= 400 for rows, width in sizes)
    assert max(rows for rows, _ in sizes) > 1


def test_the_prompt_and_its_picture_are_computed_once_and_the_head_on_replies_alone():
    model = policy_model()
    replies = random_replies(model, [8], 20)[0]
    seen = {}
    hooks = [
        module.register_forward_hook(lambda m, a, out, name=name: seen.setdefault(name, []).append(out.shape))
        for name, module in {
            "layer": model.core.language_model.layers[0],
            "vision": model.core.visual.blocks[0],
            "head": model.network.get_output_embeddings(),
        }.items()
    ]
    policy = Policy(model)
    [batch] = policy.batches([Group(PROMPTS["image"], replies)])
    policy.log_probs(batch)
    for hook in hooks:
        hook.remove()
    prompts = model.preprocessor().prompts([PROMPTS["image"]])
    tokens = sum(map(len, replies))
    assert seen["layer"] == [(1, prompts["input_ids"].shape[1] + tokens - 8, 128)]
    assert seen["vision"][0][0] == len(prompts["pixel_values"])
    assert seen["head"][0][0] == tokens
    assert [len(shapes) for shapes in seen.values()] == [1, 1, 1]


def test_reference_and_policy_share_one_look_at_the_picture():
    model, looks = policy_model(), []
    model.core.visual.patch_embed.register_forward_hook(lambda *_: looks.append(1))
    policy, group = Policy(model), Group(PROMPTS["image"], random_replies(model, [3])[0])
    looks.clear()
    [batch], [other] = policy.batches([group]), policy.batches([group])
    reference = policy.reference_log_probs(batch).logprobs
    mine = gradients(model, policy.log_probs(batch).logprobs.sum())
    again = gradients(model, policy.log_probs(batch).logprobs.sum())  # a further inner epoch
    assert len(looks) == 1
    fresh = gradients(model, policy.log_probs(other).logprobs.sum())
    for name, gradient in fresh.items():
        assert torch.equal(mine[name], gradient), name
        assert torch.equal(again[name], gradient), name
    # Another model as reference has a tower of its own.
    base = Policy(model, reference=policy_model(lora=False))
    [batch] = base.batches([group])
    torch.testing.assert_close(base.reference_log_probs(batch).logprobs, reference)
    assert batch.seen == []


def test_the_head_in_parts_changes_nothing(monkeypatch):
    model = policy_model(lora=False)
    groups = [Group(PROMPTS["image"], random_replies(model, [5], 20)[0])]
    policy = Policy(model)
    whole = loss_of_pass(policy, groups)
    expected = gradients(model, whole)
    monkeypatch.setattr(packing, "LOGITS", 7 * model.network.config.text_config.vocab_size)
    assert sum(map(len, groups[0].replies)) > 21
    parts = loss_of_pass(policy, groups)
    torch.testing.assert_close(parts, whole, rtol=1e-6, atol=0)
    for name, value in gradients(model, parts).items():
        assert float((value - expected[name]).norm() / expected[name].norm()) < 1e-5, name


def test_the_mask_lets_a_reply_see_the_prompt_and_itself():
    segments = torch.tensor([[0, 1, 1, 2, 2, 3, 3, 3, 0], [1, 1, 1, 2, 3, 4, 4, 0, 0]])
    seen = block_mask(segments, torch.float32)[:, 0] == 0
    for row, kinds in enumerate(segments.tolist()):
        for query, key in ((q, k) for q in range(9) for k in range(9)):
            if kinds[query]:
                expected = key <= query and (kinds[key] == 1 or kinds[key] == kinds[query])
                assert seen[row, query, key] == expected, (row, query, key)
        assert seen[row].any(-1).all()


def test_a_fresh_rollout_has_a_ratio_of_one_with_dropout_and_checkpointing():
    model = policy_model(dropout=0.5, gradient_checkpointing=True)
    policy = Policy(model, temperature=1.3)
    options = RolloutOptions(max_new_tokens=12, temperature=1.3, top_p=0.9)
    drawn = LocalRollout(model, options).generate(list(PROMPTS.values()), 3, list(PROMPTS))
    groups = [Group(chat, [s.tokens for s in group]) for chat, group in zip(PROMPTS.values(), drawn, strict=True)]
    assert model.training
    for batch in policy.batches(groups):
        found = policy.log_probs(batch)
        for (i, j), logprobs, mask in zip(batch.replies, found.logprobs, found.mask, strict=True):
            gap = unexplained(logprobs[mask].detach(), torch.tensor(drawn[i][j].logprobs), options.top_p)
            assert float(gap.max()) < 1e-5


@pytest.mark.parametrize("temperature", [0.7, 1.3])
def test_log_probabilities_among_the_tokens_that_top_p_keeps_are_the_engines(temperature):
    model = policy_model()
    options = RolloutOptions(max_new_tokens=12, temperature=temperature, top_p=0.6)
    drawn = LocalRollout(model, options).generate(list(PROMPTS.values()), 3, list(PROMPTS))
    groups = [Group(chat, [s.tokens for s in group]) for chat, group in zip(PROMPTS.values(), drawn, strict=True)]
    plain = Policy(model, PolicyOptions(), temperature, None, options.top_p)
    policy = Policy(model, PolicyOptions(correct_top_p=True), temperature, None, options.top_p)
    assert (plain.unexplained_top_p, policy.unexplained_top_p) == (0.6, 1.0)
    moved = 0.0
    for batch in policy.batches(groups):
        among_all, made = plain.log_probs(batch), policy.log_probs(batch)
        for row, ((i, j), logprobs, mask) in enumerate(zip(batch.replies, made.logprobs, made.mask, strict=True)):
            engine = torch.tensor(drawn[i][j].logprobs)
            assert float((logprobs[mask].detach() - engine).abs().max()) < 1e-5
            moved = max(moved, float((among_all.logprobs[row][mask].detach() - engine).abs().max()))
        made.logprobs.sum().backward()
    assert moved > 0.01  # among all tokens they are others
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert all(gradient.isfinite().all() for gradient in gradients)


def dropout_state(model):
    return [(name, m.training, getattr(m, "p", None)) for name, m in model.named_modules()]


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("where", ["adapter", "attention"])
def test_a_pass_leaves_dropout_as_it_was_and_draws_nothing(where, checkpointing):
    plain = policy_model()
    model = policy_model(dropout=0.5 if where == "adapter" else 0.0, gradient_checkpointing=checkpointing)
    if where == "attention":  # as a checkpoint's configuration would have it
        for layer in model.core.language_model.layers:
            layer.self_attn.attention_dropout = 0.5
        if checkpointing:
            again = {"use_reentrant": False, "context_fn": as_in_forward(model.network)}
            model.network.get_base_model().gradient_checkpointing_enable(again)
    before, group = dropout_state(model), Group(PROMPTS["image"], random_replies(model, [3], 20)[0])
    policy = Policy(model)
    [batch] = policy.batches([group])
    torch.manual_seed(0)
    random = torch.get_rng_state()
    reference = policy.reference_log_probs(batch).logprobs
    found = policy.log_probs(batch).logprobs
    assert dropout_state(model) == before
    got = gradients(model, found.sum())  # layers are computed again here, outside the pass
    assert dropout_state(model) == before
    assert torch.equal(torch.get_rng_state(), random)
    [batch] = Policy(plain).batches([group])
    expected = Policy(plain).log_probs(batch).logprobs
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(reference, Policy(plain).reference_log_probs(batch).logprobs, atol=1e-6, rtol=0)
    for name, value in gradients(plain, expected.sum()).items():
        assert float((got[name] - value).norm() / value.norm()) < 1e-5, name
    # The dropout that the passes leave out is there: without `without_dropout` the same pass differs.
    assert not torch.allclose(model.reply_logprobs(batch.pack())[0], expected, atol=1e-3)


def test_the_reference_is_the_model_without_its_adapter():
    model = policy_model(path="embedrl:world_base")
    base = policy_model(lora=False, path="embedrl:world_base")
    policy = Policy(model)
    replies = random_replies(model, [3])[0]
    [batch] = policy.batches([Group(PROMPTS["video"], replies)])
    mine, reference = policy.log_probs(batch), policy.reference_log_probs(batch)
    expected = plain_logprobs(base, PROMPTS["video"], replies)[0]
    torch.testing.assert_close(reference.logprobs, expected, atol=1e-5, rtol=1e-6)
    assert not reference.logprobs.requires_grad
    assert (mine.logprobs - reference.logprobs).abs().max() > 1e-2
    # ... and the policy goes on being trained.
    again = policy.log_probs(batch).logprobs
    assert torch.equal(again, mine.logprobs)
    assert any("lora" in name for name in gradients(model, again.sum()))


def test_a_reference_of_its_own_and_none_at_all():
    model = policy_model(lora=False, path="embedrl:world_base")
    other = policy_model(lora=False)
    [batch] = Policy(model).batches([Group(PROMPTS["text"], random_replies(model, [2])[0])])
    with torch.no_grad():
        expected = Policy(other).log_probs(batch).logprobs
    assert torch.equal(Policy(model, reference=other).reference_log_probs(batch).logprobs, expected)
    with pytest.raises(ConfigError, match=r"Use LoRA .* or give a reference checkpoint"):
        Policy(model).reference_log_probs(batch)


def test_an_attention_without_masks_is_refused_unless_rows_hold_one_reply():
    model = policy_model()
    model.attn_implementation = "flash_attention_2"
    groups = [Group(PROMPTS["image"], random_replies(model, [2])[0])]
    policy = Policy(model)
    with pytest.raises(ConfigError, match="shared_prefix=false"):
        policy.log_probs(policy.batches(groups)[0])
    apart = Policy(model, PolicyOptions(shared_prefix=False))
    (batch,) = apart.batches(groups)
    assert "segments" not in batch.pack()


@pytest.mark.parametrize("name", ["max_tokens_per_row", "max_tokens"])
def test_limits_must_be_positive(name):
    with pytest.raises(ConfigError, match=f"policy.{name} is 0"):
        PolicyOptions(**{name: 0})


def test_choices_are_scored_as_whole_replies():
    model = QwenVLReasoner("embedrl:world_base")
    model.build()
    model.eval()
    choices = [["1", "2", "10"], ["red star", "1"]]
    chats = [PROMPTS["image"], PROMPTS["text"]]
    tokenizer = model.processor.tokenizer
    for chat, texts, scores in zip(chats, choices, model.score_choices(chats, choices), strict=True):
        replies = [[*tokenizer(text)["input_ids"], tokenizer.eos_token_id] for text in texts]
        with torch.no_grad():
            expected = plain_logprobs(model, chat, replies)[0].sum(1)
        torch.testing.assert_close(scores, expected, atol=1e-4, rtol=0)
