import functools
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast
from trl import GRPOConfig, GRPOTrainer

from embedrl.errors import ConfigError
from embedrl.rl.grpo_loss import GRPOLoss

LOSS_TYPE = {"grpo": "sequence_mean", "bnpo": "token_mean", "dapo": "token_mean"}


def batch(rollouts=6, tokens=9, spread=0.4, seed=0, dtype=torch.float64):
    """Log-probabilities far enough apart for clipping, and replies of all lengths."""
    g = torch.Generator().manual_seed(seed)
    old = -torch.rand(rollouts, tokens, generator=g, dtype=dtype) * 3
    old, new, ref, behaviour = (
        old + spread * scale * torch.randn(old.shape, generator=g, dtype=dtype) for scale in (0, 1, 1, 0.5)
    )
    lengths = torch.randint(1, tokens + 1, (rollouts, 1), generator=g)
    lengths[0] = tokens
    return {
        "logprobs": new,
        "old_logprobs": old,
        "reference": ref,
        "behaviour": behaviour,
        "advantages": torch.randn(rollouts, generator=g, dtype=dtype),
        "mask": torch.arange(tokens) < lengths,
    }


class Table(torch.nn.Module):
    """A model that gives every token the log-probability that stands in a table, as TRL's trainer asks models for."""

    def __init__(self, logprobs) -> None:
        super().__init__()
        self.logprobs = logprobs

    def forward(self, **_):
        return SimpleNamespace(log_probs=self.logprobs, entropy=torch.zeros_like(self.logprobs))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> str:
    """The smallest model that a trainer of TRL can be built around; the losses do not come from it."""
    folder = tmp_path_factory.mktemp("trl")
    config = GPT2Config(vocab_size=1, n_embd=2, n_layer=1, n_head=1, n_positions=2, bos_token_id=0, eos_token_id=0)
    GPT2LMHeadModel(config).save_pretrained(folder)
    words = Tokenizer(WordLevel({"a": 0}, unk_token="a"))
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token="a").save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def trl_loss(checkpoint):
    """What TRL's trainer, built from a `GRPOConfig`, makes of the tensors: loss, and what it logs."""

    @functools.cache
    def trainer(**options):
        config = GRPOConfig(
            output_dir=checkpoint, use_cpu=True, bf16=False, report_to=[], per_device_train_batch_size=2,
            num_generations=2, vllm_importance_sampling_correction=True, use_bias_correction_kl=False, **options,
        )  # fmt: skip
        data = Dataset.from_list([{"prompt": "a"}])
        made = GRPOTrainer(checkpoint, reward_funcs=lambda **_: [0.0], args=config, train_dataset=data)
        made.model.eval()  # a step of its own: nothing is accumulated
        return made

    def loss(loss_type, data, beta=0.0, cap=None, low=0.2, high=0.2, count=None, **options):
        grpo = trainer(loss_type=loss_type, beta=beta, epsilon=low, epsilon_high=high, **options)
        grpo.use_vllm = cap is not None  # as an option it wants vLLM installed
        mask = data["mask"].long()
        prompt = torch.zeros(len(mask), 1, dtype=torch.long)
        inputs = {
            "prompt_ids": prompt,
            "prompt_mask": prompt + 1,
            "completion_ids": torch.zeros_like(mask),
            "completion_mask": mask,
            "advantages": data["advantages"],
            "old_per_token_logps": data["old_logprobs"],
            "ref_per_token_logps": data["reference"],
            "num_items_in_batch": mask.sum() if count is None else torch.tensor(count),
        }
        if cap is not None:
            inputs["importance_sampling_ratio"] = (data["old_logprobs"] - data["behaviour"]).exp().clamp(max=cap)
        value = grpo.compute_loss(Table(data["logprobs"]), inputs)
        grpo.log({})
        return value, {name.removeprefix("eval_"): figure for name, figure in grpo.state.log_history[-1].items()}

    return loss


@pytest.mark.parametrize("loss_type", LOSS_TYPE)
@pytest.mark.parametrize("beta", [0.0, 0.01, 0.5])
@pytest.mark.parametrize("cap", [None, 1.1])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_equals_trl(loss_type, beta, cap, dtype, trl_loss):
    tolerance = 1e-12 if dtype is torch.float64 else 1e-6
    for seed in range(5):
        data = batch(seed=seed, dtype=dtype)
        mine, theirs = ({**data, "logprobs": data["logprobs"].clone().requires_grad_()} for _ in range(2))
        loss, metrics = GRPOLoss(kl_coefficient=beta, aggregation=LOSS_TYPE[loss_type], importance_cap=cap)(**mine)
        expected, logged = trl_loss(loss_type, theirs, beta, cap)
        torch.testing.assert_close(loss, expected, rtol=tolerance, atol=tolerance)
        gradients = [torch.autograd.grad(x, y["logprobs"])[0] for x, y in ((loss, mine), (expected, theirs))]
        torch.testing.assert_close(*gradients, rtol=tolerance, atol=tolerance)
        assert 0.1 < metrics["clip_share"] < 0.9
        assert metrics["clip_share"].item() == pytest.approx(logged["clip_ratio/region_mean"], abs=1e-6)
        if beta:
            assert metrics["kl"].item() == pytest.approx(logged["kl"], abs=1e-6)


@pytest.mark.parametrize(("low", "high"), [(0.05, 0.2), (0.2, 0.28), (1.0, 3.0)])
def test_equals_trl_with_other_bounds(low, high, trl_loss):
    data = batch(spread=1.0)
    loss, _ = GRPOLoss(low, high, kl_coefficient=0)(**data)
    torch.testing.assert_close(loss, trl_loss("grpo", data, low=low, high=high)[0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("beta", [0.0, 0.1])
@pytest.mark.parametrize("spread", [0.05, 1.0])
def test_a_ratio_of_sequences_equals_trl(beta, spread, trl_loss):
    data = batch(spread=spread)
    mine, theirs = ({**data, "logprobs": data["logprobs"].clone().requires_grad_()} for _ in range(2))
    loss, metrics = GRPOLoss(0.03, 0.04, kl_coefficient=beta, ratio="sequence")(**mine)
    expected, _ = trl_loss("grpo", theirs, beta, low=0.03, high=0.04, importance_sampling_level="sequence")
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
    gradients = [torch.autograd.grad(x, y["logprobs"])[0] for x, y in ((loss, mine), (expected, theirs))]
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-12)
    assert (metrics["clip_share"] > 0) == (spread == 1.0)


@pytest.mark.parametrize("ratio", ["token", "sequence"])
def test_advantages_of_tokens(ratio):
    data = batch()
    loss, whole = GRPOLoss(ratio=ratio), data["advantages"]
    same = loss(**data | {"advantages": whole[:, None].expand_as(data["logprobs"])})[0]
    torch.testing.assert_close(same, loss(**data)[0], rtol=0, atol=0)
    # One advantage of its own for the first three tokens: the loss is that of both parts, each with its mask.
    own = torch.where(torch.arange(9) < 3, whole[:, None] * -2, whole[:, None])
    mask, first = data["mask"], torch.arange(9) < 3
    if ratio == "token":
        parts = [
            GRPOLoss(aggregation="token_mean")(**data | {"advantages": a, "mask": mask & m}, count=1.0)[0]
            for a, m in ((whole * -2, first), (whole, ~first))
        ]
        together = GRPOLoss(aggregation="token_mean")(**data | {"advantages": own}, count=1.0)[0]
        torch.testing.assert_close(together, sum(parts))


@pytest.mark.parametrize("aggregation", ["sequence_mean", "token_mean"])
def test_micro_batches_add_up_to_the_step(aggregation, trl_loss):
    data = batch(rollouts=7)
    loss = GRPOLoss(aggregation=aggregation)
    count = 7 if aggregation == "sequence_mean" else int(data["mask"].sum())
    parts = [{name: tensor[rows] for name, tensor in data.items()} for rows in (slice(0, 3), slice(3, 4), slice(4, 7))]
    torch.testing.assert_close(sum(loss(**part, count=count)[0] for part in parts), loss(**data)[0])
    if aggregation == "token_mean":
        theirs = sum(trl_loss("dapo", part, 0.01, count=count)[0] for part in parts)
        torch.testing.assert_close(loss(**data)[0], theirs)


def brute_force(data, low, high, beta, cap, aggregation):
    rows = []
    for i in range(len(data["advantages"])):
        rows.append([])
        for t in range(data["mask"].shape[1]):
            if not data["mask"][i, t]:
                continue
            new, old, ref, drawn = (
                data[name][i, t].item() for name in ("logprobs", "old_logprobs", "reference", "behaviour")
            )
            ratio, a = torch.tensor(new - old).exp().item(), data["advantages"][i].item()
            token = -min(ratio * a, min(max(ratio, 1 - low), 1 + high) * a)
            if cap is not None:
                token *= min(torch.tensor(old - drawn).exp().item(), cap)
            rows[-1].append(token + beta * (torch.tensor(ref - new).exp().item() - (ref - new) - 1))
    if aggregation == "token_mean":
        return sum(map(sum, rows)) / sum(map(len, rows))
    return sum(sum(row) / len(row) for row in rows) / len(rows)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 10**6),
    st.integers(1, 4),
    st.integers(1, 5),
    st.floats(0.01, 1),
    st.floats(0.01, 2),
    st.sampled_from([0.0, 0.01, 1.0]),
    st.sampled_from([None, 0.5, 2.0]),
    st.sampled_from(["sequence_mean", "token_mean"]),
)
def test_equals_the_formula_token_by_token(seed, rollouts, tokens, low, high, beta, cap, aggregation):
    data = batch(rollouts, tokens, seed=seed)
    loss, _ = GRPOLoss(low, high, beta, aggregation, cap)(**data)
    assert loss.item() == pytest.approx(brute_force(data, low, high, beta, cap, aggregation), rel=1e-6, abs=1e-6)


def test_the_weights_that_correct_for_another_engine():
    data = batch()
    _, metrics = GRPOLoss(importance_cap=1.1)(**data)
    weights = (data["old_logprobs"] - data["behaviour"]).exp()[data["mask"]]
    assert metrics["importance"].item() == pytest.approx(weights.clamp(max=1.1).mean().item())
    assert metrics["importance_capped"].item() == pytest.approx((weights > 1.1).double().mean().item())
    assert 0 < metrics["importance_capped"] < 1


def test_on_policy_the_gradient_is_the_policy_gradient():
    data = batch()
    logprobs = data["logprobs"].requires_grad_()
    loss, metrics = GRPOLoss(kl_coefficient=0, aggregation="token_mean")(
        logprobs, logprobs.detach(), data["advantages"], data["mask"]
    )
    (gradient,) = torch.autograd.grad(loss, logprobs)
    torch.testing.assert_close(gradient, -data["advantages"][:, None] * data["mask"] / data["mask"].sum())
    assert metrics["ratio"] == metrics["ratio_max"] == 1
    assert metrics["clip_share"] == 0


def test_only_the_policy_gets_a_gradient():
    data = {name: tensor.requires_grad_(tensor.is_floating_point()) for name, tensor in batch().items()}
    GRPOLoss(importance_cap=2.0)(**data)[0].backward()
    assert [name for name, tensor in data.items() if tensor.grad is not None] == ["logprobs"]


@pytest.mark.parametrize("junk", [torch.nan, torch.inf, -torch.inf, 1e30])
def test_padding_may_hold_anything(junk):
    clean = batch()
    dirty = dict(clean)
    for name in ("logprobs", "old_logprobs", "reference", "behaviour"):
        dirty[name] = clean[name].masked_fill(~clean["mask"], junk)
    dirty["logprobs"].requires_grad_()
    loss = GRPOLoss(importance_cap=2.0)
    value, metrics = loss(**dirty)
    expected, expected_metrics = loss(**clean)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(metrics, expected_metrics)
    (gradient,) = torch.autograd.grad(value, dirty["logprobs"])
    assert gradient.isfinite().all()
    assert (gradient[~clean["mask"]] == 0).all()


def test_a_masked_batch_costs_nothing():
    data = batch()
    loss, metrics = GRPOLoss()(**{**data, "mask": torch.zeros_like(data["mask"])})
    assert loss == 0
    assert all(value == 0 for value in metrics.values())


def test_nan_inside_the_mask_is_not_hidden():
    data = batch()
    data["logprobs"][0, 0] = torch.nan
    assert GRPOLoss()(**data)[0].isnan()


def test_half_precision_is_computed_in_float32():
    data = {k: v.bfloat16() if v.is_floating_point() else v for k, v in batch().items()}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, _ = GRPOLoss()(**data)
    exact, _ = GRPOLoss()(**{k: v.double() if v.is_floating_point() else v for k, v in data.items()})
    assert loss.dtype is torch.float32
    assert loss.item() == pytest.approx(exact.item(), abs=1e-6)


@pytest.mark.parametrize(
    ("options", "missing", "message"),
    [
        ({}, "reference", "reference"),
        ({"importance_cap": 2.0}, "behaviour", "behaviour"),
    ],
)
def test_refuses_to_go_without_what_it_needs(options, missing, message):
    with pytest.raises(ValueError, match=message):
        GRPOLoss(**options)(**{**batch(), missing: None})


@pytest.mark.parametrize("name", ["old_logprobs", "reference", "behaviour", "mask", "advantages"])
def test_refuses_shapes_that_would_broadcast(name):
    data = batch()
    data[name] = data[name][:1]
    with pytest.raises(ValueError, match=name):
        GRPOLoss()(**data)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("clip_low", 0.0),
        ("clip_low", 1.5),
        ("clip_high", -0.1),
        ("clip_high", float("nan")),
        ("kl_coefficient", -0.01),
        ("kl_coefficient", float("nan")),
        ("aggregation", "mean"),
        ("importance_cap", 0.0),
    ],
)
def test_refuses_options_out_of_range(option, value):
    with pytest.raises(ConfigError, match=option):
        GRPOLoss(**{option: value})
