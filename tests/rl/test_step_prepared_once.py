"""One EG-RL step prepares each side once, and gives the rewards and gradients of preparing it for every reader."""

import functools
from collections import Counter
from dataclasses import replace

import pytest
import torch
from egrl_module import build
from policy_helpers import picture, policy_model

from embedrl.data.collate import group_micro_batches
from embedrl.data.datamodules.egrl import PairBatch
from embedrl.data.render import render
from embedrl.errors import DataError
from embedrl.inference.frozen_embedder import LENIENT, FrozenEmbedder, encode
from embedrl.models.qwen_vl.backbone import QwenVLBackbone
from embedrl.rl import step as steps
from embedrl.rl.grpo_loss import GRPOLoss
from embedrl.rl.policy import Group, Policy
from embedrl.rl.rewards.combine import RewardRow, total_rewards
from embedrl.rl.rewards.format import FormatReward
from embedrl.rl.rewards.outcome import OutcomeReward
from embedrl.rl.types import Rollout, RolloutStep
from embedrl.tcot import parser as parser
from embedrl.tcot.chat import counterpart_of, reasoning_chat, side_of
from embedrl.tcot.parser import build as tcot
from embedrl.tcot.parser import parse
from embedrl.tcot.schema import ParseResult, TCoT
from embedrl.types import Modality, Pair, Role, Side

CPU = torch.device("cpu")
OPENED: Counter[str] = Counter()


class Seed:
    """A picture that is made anew, and counted, whenever it is opened."""

    def __init__(self, seed, size=(96, 96)):
        self.name, self.seed, self.size = f"seed {seed}", seed, size

    def load(self):
        OPENED[self.name] += 1
        return picture(self.seed, self.size)


def pairs():
    """A picture in two sides, a video, words alone."""
    star, circle = Seed(1, (200, 120)), Seed(2)
    frames = tuple(Seed(10 + i, (64, 64)) for i in range(3))
    return [
        Pair(Side("what is this ?", (star,)), Side("red star"), "made", "0"),
        Pair(Side("and then ?", (circle, star)), Side("", frames=frames), "made", "1"),
    ]


@pytest.fixture
def counts(monkeypatch):
    """What is opened, processed (by processor: number of items a call) and parsed from now on."""
    from transformers import Qwen2VLImageProcessor, Qwen3VLVideoProcessor

    processed, parsed = {}, []
    for kind in (Qwen2VLImageProcessor, Qwen3VLVideoProcessor):
        call = kind.__call__

        def spy(self, items, *args, call=call, **kwargs):
            processed.setdefault(id(self), []).append(len(items))
            return call(self, items, *args, **kwargs)

        monkeypatch.setattr(kind, "__call__", spy)
    sections = parser._sections
    monkeypatch.setattr(parser, "_sections", lambda text, log: parsed.append(text) or sections(text, log))
    OPENED.clear()
    return processed, parsed


@pytest.mark.filterwarnings("ignore")
def test_a_step_opens_processes_and_parses_each_thing_once(tmp_path, counts):
    from lightning import Trainer

    processed, parsed = counts
    module = build(group_size=4)
    module.configure_model()
    reads, embeds = module.generator.processor, module.embedder.backbone.processor
    trainer = Trainer(
        accelerator="cpu", max_steps=1, max_epochs=-1, default_root_dir=tmp_path, logger=False, limit_val_batches=0,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
    )  # fmt: skip
    trainer.fit(module, (PairBatch(pairs(), "made") for _ in range(1)))
    texts = [rollout.text for rollout, _ in module.rollouts]
    assert len(texts) == 16
    assert set(OPENED.values()) == {1}
    assert len(OPENED) == 2 + 3
    # The prompts' two pictures, of which one stands in two, and the video, however many rollouts and passes read them.
    assert processed[id(reads.image_processor)] == [2]
    assert processed[id(reads.video_processor)] == [1]
    # The Embedder: the same; six random tokens hold no cues.
    assert processed[id(embeds.image_processor)] == [2]
    assert processed[id(embeds.video_processor)] == [1]
    # Whatever the Embedder parses again held a token that is reserved for it, and has it mended.
    assert not Counter(texts) - Counter(parsed)
    assert all("< " in text and text.replace("< ", "<") in texts for text in Counter(parsed) - Counter(texts))


def test_an_error_names_the_side():
    long = policy_model(max_length=99).preprocessor()
    pair = Pair(Side("red"), Side("star " * 99), "made", "7")
    for broken, message in ((pair, "has .* more than max_length=99"), (replace(pair, target=Side()), "side is empty")):
        with pytest.raises(DataError, match=rf"made/7 \(target\): .*{message}"):
            steps.make_prompts([broken], 0, "brief", long)


BOXES = [(100, 100, 500, 600), (300, 300, 900, 900)]


def texts(modality):
    """T-CoTs that share a crop, differ after it, break the format, hold a reserved token, are equal, are none."""
    cues = {
        Modality.TEXT: [{"keywords": ["star"]}, {"keywords": ["red"]}],
        Modality.IMAGE: [{"boxes": BOXES[:1]}, {"boxes": BOXES}],
        Modality.VIDEO: [{"frames": [1]}, {"frames": [1, 3]}],
    }[modality]
    good = [tcot(modality, "Look .", "Only this .", answer, **cue).render() for cue in cues for answer in ("A", "B")]
    return [*good, good[0], good[1][:-9], f"<emb> {good[0]}", "no T-CoT"]


@pytest.fixture
def made():
    """A step's prompts and rollouts, and the policy."""
    model = policy_model(path="embedrl:world_base", max_length=4096)
    batch = PairBatch(pairs(), "made")
    prompts = steps.make_prompts(batch.opened, 0, "brief", model.preprocessor())
    tokenizer = model.processor.tokenizer
    rollouts = [
        Rollout(p.pair, p.role, i, tuple(tokenizer(text, add_special_tokens=False)["input_ids"]), (), text)
        for p in prompts
        for i, text in enumerate(texts(p.side.modality))
    ]
    return model, batch, prompts, rollouts


def plain_step(pairs, rollouts, backbone):
    """Every rollout's side is opened, rendered and parsed for itself; pictures are compared pixel by pixel."""
    sides = [side_of(pairs[r.pair], r.role).with_tcot(r.text) for r in rollouts]
    unique = {(side.key, side.tcot): side for side in reversed(sides)}
    chats = [render(side, LENIENT) for side in unique.values()]
    names, keys = [str(i) for i in range(len(chats))], [key for key, _ in unique]
    batches, order = group_micro_batches(chats, keys, names, backbone.preprocessor(), 32)
    with torch.no_grad():
        rows = dict(zip(unique, encode(backbone, batches, order, CPU), strict=True))
    vectors = {r.id: rows[side.key, side.tcot] for r, side in zip(rollouts, sides, strict=True)}
    parsed = {
        r.id: parse(r.text, side.modality, len(side.frames) or None) for r, side in zip(rollouts, sides, strict=True)
    }
    return RolloutStep(pairs, rollouts, vectors, parsed, frozenset(vectors), 5)


def gradients(model, groups, values):
    policy, found = Policy(model), []
    model.zero_grad()
    for batch in policy.batches(groups):
        result = policy.log_probs(batch)
        advantages = torch.tensor([values[i][j] for i, j in batch.replies])
        reference = policy.reference_log_probs(batch).logprobs
        old = result.logprobs.detach()
        loss, _ = GRPOLoss(kl_coefficient=0.05)(result.logprobs, old, advantages, result.mask, reference, old, 32.0)
        loss.backward()
        found.append(float(loss.detach()))
    return found, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_vectors_rewards_and_gradients_are_those_of_preparing_every_rollout(made, counts):
    model, batch, prompts, rollouts = made
    _, parsed = counts
    embedder = FrozenEmbedder(QwenVLBackbone("embedrl:world_base"))
    found = steps.make_step(batch.pairs, prompts, rollouts, embedder, CPU, 5)
    assert not OPENED
    # Once each, but for the four that hold a token reserved for the Embedder: it reads them with that token mended.
    assert len(parsed) == len(rollouts) + 4 == 36
    expected = plain_step(batch.pairs, rollouts, embedder.backbone)
    assert OPENED.total() > 32  # that path opens pictures again and again
    assert found.parsed == expected.parsed
    assert found.vectors.keys() == expected.vectors.keys()
    for name, vector in expected.vectors.items():
        assert torch.equal(found.vectors[name], vector), name
    rewards = [RewardRow(FormatReward(), 0.05), RewardRow(OutcomeReward(), 0.95)]
    mine, plain = (total_rewards(rewards, step) for step in (found, expected))
    assert mine.totals == plain.totals
    assert len(set(mine.totals.values())) > 8

    groups, kept = steps.kept_groups(prompts, rollouts)
    values = [[mine.totals[r.id] for r in row] for row in kept]
    asked = functools.partial(reasoning_chat, style="brief")
    fresh = [
        Group(asked(side_of(pair, role), role, counterpart_of(pair, role)), group.replies)
        for (pair, role), group in zip([(p, r) for p in batch.pairs for r in (Role.QUERY, Role.TARGET)], groups,
                                       strict=True)
    ]  # fmt: skip
    losses, mine = gradients(model, groups, values)
    again, plain = gradients(model, fresh, values)
    assert losses == again
    assert mine.keys() == plain.keys()
    assert any(gradient.abs().max() > 0 for gradient in mine.values())
    for name, gradient in plain.items():
        assert torch.equal(mine[name], gradient), name


def test_what_other_processes_parsed_is_not_parsed_again(made, counts, monkeypatch):
    _, batch, prompts, rollouts = made
    _, parsed = counts
    mine, other = [r for r in rollouts if r.pair == 0], [r for r in rollouts if r.pair == 1]
    told = ParseResult(TCoT("from", "another", "process"))
    theirs = [(r, torch.zeros(128), told) for r in other]
    monkeypatch.setattr(steps, "gather_objects", lambda own: [*own, *theirs])
    own = [p for p in prompts if p.pair == 0]
    found = steps.make_step(batch.pairs, own, mine, FrozenEmbedder(QwenVLBackbone("embedrl:tiny")), CPU, 5)
    assert len(parsed) == len(mine) + 2
    assert found.mine == {r.id for r in mine}
    assert all(found.parsed[r.id] is told for r in other)
    assert all(found.parsed[r.id] == parse(r.text, side_of(batch.pairs[0], r.role).modality) for r in mine)
