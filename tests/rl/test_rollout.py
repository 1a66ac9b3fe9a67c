import pytest
import torch
from policy_helpers import PROMPTS, plain_logits, policy_model

from embedrl.errors import ConfigError
from embedrl.rl.rollout import LocalRollout, RolloutOptions

CHATS, KEYS = list(PROMPTS.values()), list(PROMPTS)
COORDINATES = [{"role": "user", "content": [PROMPTS["image"][0]["content"][0], {"type": "text", "text": "red star"}]}]


@pytest.fixture(scope="module")
def model():
    return policy_model().eval()


@pytest.fixture(scope="module")
def base():
    """The shipped base: it ends its replies."""
    return policy_model(lora=False, path="embedrl:world_base").eval()


def rollout(model, n=1, chats=CHATS, keys=KEYS, step=0, **options):
    return LocalRollout(model, RolloutOptions(**options)).generate(chats, n, keys, step)


@pytest.mark.parametrize("kind", ["random", "base"])
def test_greedy_replies_are_token_for_token_those_of_generate(kind, model, base):
    model = model if kind == "random" else base
    chats = [*CHATS, COORDINATES]
    found = rollout(model, 1, chats, [*KEYS, "c"], temperature=0, max_new_tokens=24, stop=())
    prompts = model.preprocessor().prompts(chats)
    assert [group[0].text for group in found] == model.generate(prompts, 24)
    eos = model.processor.tokenizer.eos_token_id
    for chat, [sample] in zip(chats, found, strict=True):
        inputs = model.preprocessor().prompts([chat])
        inputs.pop("position_ids")
        tokens = model.network.generate(
            **inputs, max_new_tokens=24, do_sample=False, suppress_tokens=model.suppressed, eos_token_id=eos
        )
        model.core.rope_deltas = None
        assert list(sample.tokens) == tokens[0, inputs["input_ids"].shape[1] :].tolist()
        assert sample.truncated == (sample.tokens[-1] != eos)
    if kind == "base":
        assert not all(group[0].truncated for group in found)


def test_replies_do_not_depend_on_how_many_share_a_row(base, monkeypatch):
    options = {"n": 4, "max_new_tokens": 24, "max_sequences": 64}
    drawn = []
    for together in (1, 2, 4):
        monkeypatch.setattr("embedrl.models.sampling.replies_a_row", lambda n, prompt, steps, count=together: count)
        drawn.append([sample for group in rollout(base, **options) for sample in group])
    assert len({len(sample.tokens) for sample in drawn[0]}) > 2  # replies end at different steps
    for other in drawn[1:]:
        assert [sample.tokens for sample in other] == [sample.tokens for sample in drawn[0]]
        for ours, alone in zip(other, drawn[0], strict=True):
            assert ours.logprobs == pytest.approx(alone.logprobs, abs=1e-5)


@pytest.mark.parametrize(("temperature", "top_p"), [(0.0, 1.0), (0.0, 0.5), (0.7, 1.0), (1.0, 1.0), (1.0, 0.8)])
@torch.no_grad()
def test_log_probs_equal_a_teacher_forced_pass_of_transformers(base, temperature, top_p):
    found = rollout(base, 3, max_new_tokens=16, temperature=temperature, top_p=top_p)
    assert len({len(sample.tokens) for group in found for sample in group}) > 1  # rows left at different steps
    kept_mass = []
    for chat, group in zip(CHATS, found, strict=True):
        logits, tokens, mask = plain_logits(base, chat, [s.tokens for s in group])
        probabilities = (logits / (temperature or 1.0)).double().softmax(-1)
        mass = nucleus_mass(probabilities, top_p) if temperature else torch.ones(mask.shape, dtype=torch.float64)
        expected = (probabilities.gather(2, tokens[..., None])[..., 0] / mass).log()
        kept_mass += mass[mask].tolist()
        for sample, row, kept in zip(group, expected, mask, strict=True):
            found_ones = torch.tensor(sample.logprobs).double()
            torch.testing.assert_close(found_ones, row[kept], atol=1e-5, rtol=1.3e-6)  # torch's own, of float32
    assert top_p - 1e-6 <= min(kept_mass) <= 1.000001
    assert (min(kept_mass) < 0.99) == (temperature > 0 and top_p < 1)  # else nothing was cut off


def nucleus_mass(probabilities, top_p):
    """The probability of the fewest likeliest tokens that have `top_p` together, `[replies, T]`."""
    ordered = probabilities.sort(-1, descending=True).values
    before = ordered.cumsum(-1) - ordered
    return (ordered * (before < top_p)).sum(-1)


def test_a_reply_depends_on_seed_step_and_key_and_on_nothing_else(model):
    options = {"max_new_tokens": 8, "temperature": 1.0}
    together = rollout(model, 3, **options)
    one_by_one = rollout(model, 3, max_sequences=1, **options)
    turned = rollout(model, 3, CHATS[::-1], KEYS[::-1], **options)[::-1]
    fewer = rollout(model, 2, **options)
    for a, b, c, d in zip(together, one_by_one, turned, fewer, strict=True):
        assert len(a) == 3
        assert len({s.tokens for s in a}) == 3
        assert [s.tokens for s in a] == [s.tokens for s in b] == [s.tokens for s in c]
        assert [s.tokens for s in d] == [s.tokens for s in a[:2]]
    for other in (
        rollout(model, 3, seed=1, **options),
        rollout(model, 3, step=1, **options),
        rollout(model, 3, keys=["a", "b", "c", "d"], **options),
    ):
        for a, b in zip(together, other, strict=True):
            assert [s.tokens for s in a] != [s.tokens for s in b]
    state = torch.get_rng_state()
    rollout(model, 1, **options)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.5, 1.0), (1.0, 0.9)])
@torch.no_grad()
def test_tokens_are_drawn_with_their_probabilities(base, temperature, top_p):
    n = 4000
    chat = PROMPTS["text"]
    [group] = rollout(base, n, [chat], ["k"], max_new_tokens=1, temperature=temperature, top_p=top_p, stop=())
    probabilities = (plain_logits(base, chat, [[0]])[0][0, 0] / temperature).softmax(0)
    nucleus, mass = set(), 0.0
    for token in probabilities.argsort(descending=True).tolist():
        if mass >= top_p:
            break
        nucleus.add(token)
        mass += float(probabilities[token])
    counts = torch.bincount(torch.tensor([s.tokens[0] for s in group]), minlength=len(probabilities))
    assert set(counts.nonzero()[:, 0].tolist()) <= nucleus
    assert len(nucleus) > 3
    expected = torch.zeros_like(probabilities)
    expected[list(nucleus)] = probabilities[list(nucleus)]
    expected /= expected.sum()
    error = (counts / n - expected) / (expected * (1 - expected) / n).sqrt().clamp_min(1 / n)
    assert error.abs().max() < 5  # standard errors; among some hundred tokens, at a fixed seed


def test_a_stop_text_ends_a_reply_and_the_others_go_on(base):
    whole = rollout(base, 6, max_new_tokens=12, stop=(), temperature=1.0)
    tokenizer = base.processor.tokenizer
    stop = tokenizer.decode(whole[0][0].tokens[1:2])
    assert stop.strip()
    found = rollout(base, 6, max_new_tokens=12, stop=(stop,), temperature=1.0)
    cut = 0
    for before, after in zip((s for g in whole for s in g), (s for g in found for s in g), strict=True):
        texts = [tokenizer.decode(before.tokens[: i + 1]) for i in range(len(before.tokens))]
        length = next((i + 1 for i, text in enumerate(texts) if stop in text), len(texts))
        assert after.tokens == before.tokens[:length]
        cut += length < len(texts)
        assert after.truncated == (stop not in after.text and after.tokens[-1] != tokenizer.eos_token_id)
    assert 0 < cut < 24


def test_a_reply_that_ends_with_its_last_allowed_token_is_not_truncated(base):
    [[whole]] = rollout(base, 1, [COORDINATES], ["k"], max_new_tokens=64, temperature=0, stop=())
    n = len(whole.tokens)
    assert not whole.truncated
    assert whole.text == base.processor.tokenizer.decode(whole.tokens[:-1])  # without the end of turn
    for limit, truncated in ((n, False), (n - 1, True)):
        [[sample]] = rollout(base, 1, [COORDINATES], ["k"], max_new_tokens=limit, temperature=0, stop=())
        assert sample.truncated == truncated
        assert len(sample.tokens) == limit


def test_a_prompt_is_read_once_a_group_and_rows_that_ended_cost_nothing(base):
    shapes, pixels = [], []
    hooks = [
        base.core.language_model.layers[0].register_forward_hook(lambda m, a, out: shapes.append(out.shape[:2])),
        base.core.visual.blocks[0].register_forward_hook(lambda m, a, out: pixels.append(len(out))),
    ]
    found = rollout(base, 4, max_new_tokens=16)
    for hook in hooks:
        hook.remove()
    prompts = base.preprocessor().prompts(CHATS)
    assert shapes[0] == prompts["input_ids"].shape
    # Pictures and frames go through the tower once each.
    assert sum(pixels) == len(prompts["pixel_values"]) + len(prompts["pixel_values_videos"])
    going = [[sum(len(s.tokens) > step + 1 for s in group) for group in found] for step in range(15)]
    # A row for each prompt that has replies to go on with, as wide as the most that one has.
    assert shapes[1:] == [(sum(map(bool, row)), max(row)) for row in going if any(row)]
    assert len(set(shapes[1:])) > 2  # replies and rows left at different steps


@torch.no_grad()
def test_tokens_that_stand_for_pixels_and_unused_rows_are_never_drawn():
    model = policy_model(lora=False).eval()
    weight = model.network.get_input_embeddings().weight
    hidden = model.hidden_states(model.preprocessor().prompts([PROMPTS["text"]]))[0, -1]
    banned = set(model.suppressed)
    weight[list(banned)] = 5 * torch.nn.functional.normalize(hidden, dim=0)
    for temperature in (0.0, 1.0):
        found = rollout(model, 2, max_new_tokens=8, temperature=temperature)
        assert all(not banned & set(sample.tokens) for group in found for sample in group)
        assert all(value > -1e4 for group in found for sample in group for value in sample.logprobs)


def test_a_model_in_training_writes_as_in_evaluation_and_goes_on_training():
    model = policy_model(dropout=0.5, gradient_checkpointing=True)
    model.core.visual.eval()
    modes = [module.training for module in model.modules()]
    found = rollout(model, 2, max_new_tokens=6)
    assert [module.training for module in model.modules()] == modes
    assert found == rollout(model.eval(), 2, max_new_tokens=6)


def test_no_prompts_and_wrong_keys(model):
    assert rollout(model, 4, [], []) == []
    with pytest.raises(ValueError, match="different keys"):
        rollout(model, 1, keys=["a", "a", "b", "c"])


@pytest.mark.parametrize(
    ("option", "value"),
    [("max_new_tokens", 0), ("temperature", -1), ("top_p", 0), ("top_p", 1.1), ("max_sequences", 0)],
)
def test_options_out_of_range_are_refused(option, value):
    with pytest.raises(ConfigError, match=f"{option} is {value}"):
        RolloutOptions(**{option: value})
