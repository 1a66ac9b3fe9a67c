"""The cost of one optimizer step of each training."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from embedrl.errors import ConfigError
from embedrl.models.packing import LOGITS
from embedrl.models.vlm.base import VisionLanguageModel
from embedrl.planning.build import build_on_meta, read_setup
from embedrl.planning.flops import Flops
from embedrl.planning.memory import FLOAT32, Setup, kept, training_bytes, whole, working
from embedrl.planning.rows import Assumptions, Mix, Sides, TokenRow, longest, tokens
from embedrl.rl.module import EGRLModule
from embedrl.rl.rewards.judge import ReferenceJudge
from embedrl.rl.rewards.process import ProcessReward
from embedrl.rl.verifiable_module import VerifiableRLModule
from embedrl.training.embedder import EmbedderModule
from embedrl.training.reasoner import ReasonerModule

QUESTION = 100
"""Tokens of the discriminator's instruction."""
DRAWING = 24
"""Bytes per logit while a token is sampled: float32 twice, float64 twice."""


@dataclass
class Plan:
    """The cost of a training.

    Attributes:
        devices: Number of devices.
        models: For each model, its parameters and those of them that are trained.
        memory: Bytes on one device.
        peaks: Bytes on one device at the peak of each phase of a step.
        tokens: Tokens of an optimizer step on all devices, pixels' included, by phase.
        flops: Operations of an optimizer step on all devices, by phase, without those that are computed again.
        extra: Further operations, by name: what is computed again to save memory.
        notes: Remarks to print with these figures.
    """

    devices: int
    models: dict[str, tuple[int, int]] = field(default_factory=dict)
    memory: dict[str, float] = field(default_factory=dict)
    peaks: dict[str, float] = field(default_factory=dict)
    tokens: dict[str, float] = field(default_factory=dict)
    flops: dict[str, float] = field(default_factory=dict)
    extra: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def total_flops(self) -> float:
        """All operations of an optimizer step."""
        return sum(self.flops.values()) + sum(self.extra.values())

    def add_model(self, name: str, model: Any) -> None:
        """Count a model's parameters."""
        every = list(model.parameters())
        self.models[name] = (sum(p.numel() for p in every), sum(p.numel() for p in every if p.requires_grad))


def make_plan(module: Any, data: Any, trainer: Any, assume: Assumptions, shapes: str | None = None) -> Plan:
    """Plan a training.

    Args:
        module: The LightningModule, not built.
        data: The `init_args` of the recipe's data module, parsed.
        trainer: The recipe's `trainer`, parsed.
        assume: What to assume of the data.
        shapes: A folder with the config.json of Hub names that are not on this machine.

    Raises:
        CheckpointError: If the shape of a checkpoint is not known on this machine.
        ConfigError: If a model's class is unknown, or its pixel budgets are, or the training is none that it knows.
    """
    if isinstance(module, VerifiableRLModule):
        raise ConfigError("embedrl plan does not know the lengths of a VerifiableRLModule's lessons; plan EG-RL, say")
    model, notes = build_on_meta(module.trained_model, shapes)
    setup, more = read_setup(trainer, getattr(model, "dtype", "float32"))
    plan = Plan(setup.devices, notes=notes + more)
    plan.add_model("backbone" if isinstance(module, EmbedderModule) else "generator", model)
    plan.memory = training_bytes(model, setup, module.optimizer)
    if not isinstance(model, VisionLanguageModel):
        plan.notes.append("no activations and operations: only those of vision-language models are counted")
        plan.peaks["between steps"] = sum(plan.memory.values())
        return plan
    sides, flops = Sides(model, setup.compute, assume), Flops.of(model, setup.compute)
    if isinstance(module, EGRLModule):
        _egrl(plan, module, data, sides, flops, setup, shapes)
    elif isinstance(module, ReasonerModule):
        _reasoner(plan, module, data, trainer, sides, flops, setup)
    else:
        _embedder(plan, module, data, trainer, sides, flops, setup)
    return plan


def _vocabulary(model: Any) -> int:
    return int(model.network.get_output_embeddings().weight.shape[0])


def _times(mix: Mix, count: float) -> Mix:
    return [(row, number * count) for row, number in mix]


def _embedder(plan: Plan, module: Any, data: Any, trainer: Any, sides: Sides, flops: Flops, setup: Any) -> None:
    model, render = module.backbone, data.render
    full = render.tcot == "full"
    pair = sides.pair(sides.assume.tcot if full else 0, full and render.cues == "on")
    batch = _times(pair, data.batch_size * (2 + data.max_negatives) / 2)
    step = _times(batch, trainer.accumulate_grad_batches)
    plan.tokens["sides"] = tokens(step)
    plan.flops["forward"], plan.flops["backward"] = flops.forward(step), flops.backward(step)
    if module.gradient_cache:
        plan.extra["first pass of gradient caching"] = flops.forward(step) - flops.vision_tower(step)
    if model.gradient_checkpointing:
        plan.extra["layers computed again"] = flops.again(step)
    rows = [longest(pair)] * data.micro_batch_size
    graphs = sum(kept(model, flops, row, setup) for row in rows)
    if not module.gradient_cache:
        graphs = sum(kept(model, flops, row, setup) * count for row, count in batch) / setup.devices
    plan.memory |= {"activations kept": graphs, "layer at work": working(flops, rows)}
    plan.peaks["training"] = sum(plan.memory.values())


def _reasoner(plan: Plan, module: Any, data: Any, trainer: Any, sides: Sides, flops: Flops, setup: Any) -> None:
    model, assume, vocabulary = module.generator, sides.assume, _vocabulary(module.generator)
    lessons = sides.pair(assume.instruction + assume.tcot)
    batch = _times(lessons, data.batch_size / 2)
    step = _times(batch, trainer.accumulate_grad_batches)
    plan.tokens["lessons"] = tokens(step)
    written = data.batch_size * assume.tcot * trainer.accumulate_grad_batches
    plan.flops["forward"] = flops.forward(step) + flops.head.forward * written
    plan.flops["backward"] = flops.backward(step) + flops.head.backward * written
    if model.gradient_checkpointing:
        plan.extra["layers computed again"] = flops.again(step)
    rows = [longest(lessons)] * data.micro_batch_size
    plan.memory |= {
        "activations kept": sum(kept(model, flops, row, setup) for row in rows),
        "logits": vocabulary * len(rows) * assume.tcot * (setup.compute + 2 * FLOAT32),
        "layer at work": working(flops, rows),
    }
    plan.peaks["training"] = sum(plan.memory.values())


def _egrl(plan: Plan, module: Any, data: Any, sides: Sides, flops: Flops, setup: Setup, shapes: str | None) -> None:
    model, assume, group, pairs = module.generator, sides.assume, module.group_size, data.batch_size
    embedder, more = build_on_meta(module.embedder.backbone, shapes)
    embedder.requires_grad_(False)
    plan.notes += more
    plan.add_model("embedder", embedder)
    plan.memory["frozen Embedder"] = whole(embedder)
    judge = flops
    if module.reference is not None:
        reference, more = build_on_meta(module.reference, shapes)
        reference.requires_grad_(False)
        plan.notes += [note for note in more if note not in plan.notes]
        plan.add_model("reference", reference)
        plan.memory["reference"], judge = whole(reference), Flops.of(reference, setup.compute)

    prompts = sides.pair(assume.instruction)
    replies = 2 * pairs * group * assume.tcot
    plan.tokens |= {"prompts": tokens(prompts) * pairs, "rollouts": replies}
    plan.flops["rollouts"] = sum(
        count * pairs * (flops.forward([(row, 1)]) + group * flops.written(row.length, assume.tcot))
        for row, count in prompts
    )

    seen = Sides(embedder, setup.compute, assume)
    embedded: list[tuple[TokenRow, float]] = []
    for row, count in seen.pair(0):
        reply = TokenRow(assume.tcot) + (seen.crops() if row.pictures else TokenRow(0))
        embedded.append((row + reply.times(group), count * pairs))
    plan.tokens["embedded"] = tokens(embedded)
    plan.flops["Embedder"] = Flops.of(embedder, setup.compute).forward(embedded)

    for reward in (row.reward for row in module.rewards):
        if isinstance(reward, ProcessReward) and isinstance(reward.judge, ReferenceJudge):
            read = QUESTION + assume.text + (1 + group + reward.hard_negatives) * assume.tcot
            question = [(TokenRow(read), 2.0 * pairs * group)]
            plan.tokens["discriminator"] = tokens(question)
            plan.flops["discriminator"] = judge.forward(question)

    options = module.policy_options
    packed: list[tuple[TokenRow, float]] = []
    for row, count in prompts:
        room = max(1, (options.max_tokens_per_row - row.length) // max(assume.tcot, 1))
        most = min(group, room) if options.shared_prefix else 1
        packed.append((row + TokenRow(assume.tcot).times(most), count * pairs * group / most))
    head = flops.head
    needed = flops.forward(packed) + flops.backward(packed) + (head.forward + head.backward) * replies
    plan.tokens["policy pass"] = tokens(packed)
    asked, own = module.policy_loss.kl_coefficient, module.reference is None
    spared = module.inner_epochs - (0 if asked and own else 1)  # the first pass of these weights runs the vision tower
    plan.flops["policy"] = module.inner_epochs * needed - spared * flops.vision_tower(packed)
    if module.inner_epochs > 1:
        plan.notes.append(f"work: of one batch, {module.inner_epochs} optimizer steps on its rollouts (inner_epochs)")
    if asked:
        plan.flops["reference"] = judge.forward(packed) + judge.head.forward * replies
    if model.gradient_checkpointing:
        plan.extra["layers computed again"] = module.inner_epochs * flops.again(packed)

    rows = [longest(packed)] * max(1, options.max_tokens // longest(packed).length)
    fixed = sum(
        value for name, value in plan.memory.items() if name not in ("gathered weights", "gradients in transit")
    )
    gathered = sum(plan.memory.values()) - fixed
    plan.memory |= {
        "policy pass: activations kept": sum(kept(model, flops, row, setup) for row in rows),
        "policy pass: layer at work": working(flops, rows),
        "policy pass: logits": 3.0 * LOGITS * FLOAT32,
        "rollouts: policy whole": whole(model, setup.compute) if setup.sharded else 0.0,
    }
    policy = sum(value for name, value in plan.memory.items() if name.startswith("policy pass"))
    drawn, prompt = max(module.rollout.max_sequences, group), longest(prompts)
    writing = flops.cache * drawn * (prompt.length + module.rollout.max_new_tokens)
    writing += drawn * _vocabulary(model) * DRAWING
    writing += working(flops, [prompt] * max(1, drawn // group))
    plan.memory["rollouts: keys, values, logits"] = writing
    plan.peaks["rollouts"] = fixed + plan.memory["rollouts: policy whole"] + writing
    plan.peaks["policy pass"] = fixed + gathered + policy
