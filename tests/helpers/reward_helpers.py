"""Steps of pairs and rollouts with made-up vectors, and a discriminator that answers as it is told."""

import random

import torch

from embedrl.rl.rewards.judge import Verdict
from embedrl.rl.types import Rollout, RolloutStep
from embedrl.tcot.parser import build, parse
from embedrl.types import Modality, Pair, Role, Side

GOOD = build(Modality.TEXT, "Look.", "Only this.", "A thing.", keywords=["thing"]).render()


def unit(rows, dim=4, seed=0):
    vectors = torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.nn.functional.normalize(vectors, dim=-1)


def coarse(rows, seed=0):
    """Vectors whose products are exact and often equal: ties everywhere."""
    corners = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.5, 0.5]], dtype=torch.float64)
    return corners[torch.randint(0, 4, (rows,), generator=torch.Generator().manual_seed(seed))]


def step_of(queries, targets, groups=8, vectors=unit, mine=None, seed=0, missing=0):
    """A step of pairs with these query and target contents; `missing` rollouts are left out at random."""
    pairs = [
        Pair(Side(f"query {q}"), Side(f"target {t}"), "demo", str(i))
        for i, (q, t) in enumerate(zip(queries, targets, strict=True))
    ]
    rollouts = [
        Rollout(i, role, g, (), (), f"{GOOD} {i} {role} {g}")
        for i in range(len(pairs))
        for role in Role
        for g in range(groups)
    ]
    rng = random.Random(seed)
    for _ in range(missing):
        rollouts.pop(rng.randrange(len(rollouts)))
    ids = [rollout.id for rollout in rollouts]
    return RolloutStep(
        pairs,
        rollouts,
        dict(zip(ids, vectors(len(ids), seed=seed), strict=True)),
        {rollout.id: parse(rollout.text, Modality.TEXT) for rollout in rollouts},
        frozenset(ids if mine is None else mine),
        seed,
    )


class FakeJudge:
    """Answers every question with `answer(question)`, and keeps the questions."""

    name = "the fake judge"

    def __init__(self, answer=lambda question: 0):
        self.answer = answer
        self.questions = []

    def choose(self, questions):
        self.questions += questions
        answers = [self.answer(question) for question in questions]
        return [Verdict(None, a) if isinstance(a, str) else Verdict(a) for a in answers]
