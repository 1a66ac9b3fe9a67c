"""The policy embeds its own rollouts: UME-R1's second stage."""

import itertools
from collections import Counter

import pytest
import torch
from egrl_module import build, fit
from egrl_small import CONFIGS

from embedrl.errors import ConfigError
from embedrl.inference.frozen_embedder import FrozenEmbedder
from embedrl.models.lora import LoRAOptions
from embedrl.models.qwen_vl.reasoner import QwenVLReasoner
from embedrl.models.unified.layout import UnifiedLayout
from embedrl.models.unified.model import QwenVLUnified
from embedrl.rl.policy_vectors import PolicyVectors
from embedrl.rl.rewards.combine import RewardRow
from embedrl.rl.rewards.outcome import OutcomeReward
from embedrl.rl.rewards.reasoning_format import ReasoningFormat
from embedrl.rl.types import Rollout, RolloutStep
from embedrl.types import Pair, Role, Side

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def policy():
    lora = LoRAOptions(r=4, alpha=8, dropout=0.0, scope="all-linear")
    model = QwenVLUnified("embedrl:tiny", UnifiedLayout(request="evidence :"), lora=lora)
    model.build()
    return model


@pytest.fixture(scope="module")
def vectors(policy):
    own = PolicyVectors()
    own.prepare(policy, None)
    return own


def unit(hidden):
    return torch.nn.functional.normalize(hidden.float(), dim=-1)


def test_a_rollout_without_its_token_is_read_at_its_last_one_and_counted(policy, vectors):
    """Also an empty one, whose last hidden state is that of its prompt."""
    texts = ["red star<gen_emb>", "red star", "<gen_emb>", ""]
    repairs = Counter()
    embedded = vectors.embed([Side("blue", tcot=text) for text in texts], texts, CPU, repairs=repairs)
    assert repairs == {"no_gen_emb": 2}
    assert not embedded.requires_grad
    words, prompt = policy.processor.tokenizer, policy.preprocessor().prompts([[{"role": "user", "content": "blue"}]])
    with torch.no_grad():
        for text, vector in zip(texts, embedded, strict=True):
            ids = torch.tensor([words(text, add_special_tokens=False)["input_ids"]], dtype=torch.long)
            ids = torch.cat([prompt["input_ids"], ids], dim=1)
            positions = torch.arange(ids.shape[1]).expand(3, 1, -1)
            hidden = policy.core(input_ids=ids, position_ids=positions, use_cache=False).last_hidden_state
            torch.testing.assert_close(vector, unit(hidden)[0, -1], atol=1e-5, rtol=0)


def test_it_is_the_current_policy_and_stays_in_training(policy, vectors):
    sides = [Side("blue", tcot="red star<gen_emb>")]
    before = vectors.embed(sides, ["one"], CPU)
    trained = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    assert trained
    assert policy.training
    with torch.no_grad():
        for parameter in trained:
            parameter.add_(0.05)
        after = vectors.embed(sides, ["one"], CPU)
        for parameter in trained:
            parameter.sub_(0.05)
    assert (before - after).abs().max() > 1e-3
    assert [p for p in policy.parameters() if p.requires_grad] == trained


def double_loop(anchors, candidates, pairs_a, pairs_c):
    """(Share of the partner's rollouts among the G nearest) x (mean cosine with them - mean cosine with the others)."""
    rewards = []
    for vector, pair in zip(anchors, pairs_a, strict=True):
        own, others = [], []
        for candidate, other in zip(candidates, pairs_c, strict=True):
            cosine = sum(a * b for a, b in zip(vector.tolist(), candidate.tolist(), strict=True))
            (own if other == pair else others).append(cosine)
        top = sorted([(c, 1) for c in own] + [(c, 0) for c in others], reverse=True)[: len(own)]
        share = sum(mine for _, mine in top) / len(own)
        rewards.append(share * (sum(own) / len(own) - sum(others) / len(others)))
    return rewards


def test_the_reward_is_ume_r1s(policy, vectors):
    """The reward of the recipe, on vectors of the policy, against a double loop."""
    words = ["red star", "blue circle", "green cross", "top left", "red", "a cross"]
    pairs = [Pair(Side(f"find {word}"), Side(word), "d", word) for word in words[:3]]
    written = itertools.cycle([f"{word}<gen_emb>" for word in words])
    rollouts = [Rollout(i, role, g, (), (), next(written)) for i in range(3) for role in Role for g in range(4)]
    sides = [
        (pairs[r.pair].query if r.role is Role.QUERY else pairs[r.pair].target).with_tcot(r.text) for r in rollouts
    ]
    embedded = vectors.embed(sides, [r.id for r in rollouts], CPU)
    named = {r.id: vector for r, vector in zip(rollouts, embedded, strict=True)}
    step = RolloutStep(pairs, rollouts, named, {}, frozenset(named))
    values = OutcomeReward(negatives="uniform", mask_duplicates=False)(step).values
    for role in Role:
        mine, others = ([r for r in rollouts if (r.role is role) == own] for own in (True, False))
        expected = double_loop(
            [named[r.id] for r in mine], [named[r.id] for r in others], [r.pair for r in mine], [r.pair for r in others]
        )
        assert [values[r.id] for r in mine] == pytest.approx(expected, abs=1e-6)
    recipe = (CONFIGS / "parts/reward/ume_r1.yaml").read_text()
    assert "negatives: uniform" in recipe
    assert "mask_duplicates: false" in recipe


@pytest.mark.slow
def test_a_unified_policy_learns_from_its_own_vectors(tmp_path):
    lora = LoRAOptions(r=4, alpha=8, dropout=0.0, scope="all-linear")
    module = build(
        generator=QwenVLUnified("embedrl:tiny", UnifiedLayout(request="evidence :"), lora=lora),
        embedder=PolicyVectors(),
        rewards=[RewardRow(ReasoningFormat()), RewardRow(OutcomeReward(negatives="uniform", mask_duplicates=False))],
    )
    trainer = fit(module, tmp_path, 1)
    logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
    assert 0 < logged["rollout/no_gen_emb"] <= 1
    assert logged["policy/grad_norm"] > 0
    assert "reward/format/mean" in logged


def test_policies_without_vectors_are_refused():
    with pytest.raises(
        ConfigError, match=r"PolicyVectors needs a policy that embeds, such as .*QwenVLUnified, not a Q"
    ):
        PolicyVectors().prepare(QwenVLReasoner("embedrl:tiny"), None)
    with pytest.raises(ConfigError, match="embeds with the policy of an EGRLModule"):
        PolicyVectors().embed([Side("a")], ["a"], CPU)
    assert issubclass(PolicyVectors, FrozenEmbedder)


@pytest.fixture(scope="module")
def gated():
    model = QwenVLUnified("embedrl:tiny", UnifiedLayout(request="evidence :", gate=True))
    model.build()
    return model


def test_the_gate_chooses_the_vector(gated, policy, vectors):
    """`<gen_emb>` alone is the side itself; words are read at their end, a rollout that was cut off, too."""
    own = PolicyVectors()
    own.prepare(gated, None)
    sides = [Side(name, tcot=text) for name in ("blue", "red") for text in ("<gen_emb>", "a star<gen_emb>", "")]
    names = [str(i) for i in range(len(sides))]
    embedded, raw = own.embed_variants(sides, names, CPU, ("none",))
    bare = own.embed_bare(sides, names, CPU)
    torch.testing.assert_close(raw, bare, atol=1e-6, rtol=0)
    torch.testing.assert_close(embedded[[0, 3]], bare[[0, 3]], atol=1e-6, rtol=0)
    assert (embedded - bare).norm(dim=1)[[1, 2, 4, 5]].min() > 1e-3
    with pytest.raises(ConfigError, match=r"train the policy with layout\.gate: true first"):
        vectors.embed_variants(sides, names, CPU, ("none",))
    with pytest.raises(ConfigError, match="embeds rollouts whole"):
        own.embed_variants(sides, names, CPU, ("no_evidence",))


@pytest.mark.slow
def test_the_gates_recipes_train(gated, tmp_path, monkeypatch, capsys):
    """Two steps of either YAML, smaller; the supervised one begins with the gate's own token among its labels."""
    from cli_process import logged

    from embedrl.cli import main

    monkeypatch.chdir(tmp_path)
    small = ["--trainer.max_steps", "2", "--trainer.log_every_n_steps", "1", "--trainer.limit_val_batches", "0"]
    data = ["--data.batch_size", "4", "--data.sub_batch_size", "4", "--data.micro_batch_size", "8"]
    assert main(["fit", "--config", str(CONFIGS / "world/gate_sft.yaml"), *small, *data]) == 0
    rollout = ["--model.group_size", "3", "--model.rollout.max_new_tokens", "8", "--data.batch_size", "4"]
    callbacks = ["--trainer.callbacks", "[]"]
    assert main(["fit", "--config", str(CONFIGS / "world/gate_rl.yaml"), *small, *rollout, *callbacks]) == 0
    [run] = (tmp_path / "runs/world_gate_rl").glob("version_*")
    thinking = logged(run, "reward/gate/thinking")
    assert sorted(thinking) == [0, 1]
    assert all(0 <= value <= 1 for [value] in thinking.values())
    assert sorted(logged(run, "reward/gate/mean")) == [0, 1]
