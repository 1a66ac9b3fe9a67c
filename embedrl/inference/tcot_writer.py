"""A Reasoner writes T-CoTs for the sides of retrieval tasks, once for each side and situation."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch

from embedrl.data.checked_rows import good_prompts
from embedrl.data.inputs import GeneratorPreprocessor, ModelInputs
from embedrl.data.left_out import without
from embedrl.data.on_bad import BadSample, OnBadMode
from embedrl.distributed.collectives import gather_objects, world_size
from embedrl.errors import DataError
from embedrl.models.generator import Generator
from embedrl.tcot.chat import reasoning_chat
from embedrl.tcot.prompts import Situation, Style, situation
from embedrl.tcot.schema import STOP
from embedrl.types import Modality, RetrievalTask, Role, Side

Key = tuple[str, Situation]
"""Content of a side, and the situation in which its T-CoT is written."""


class TCoTRequest(NamedTuple):
    """A T-CoT to write.

    Attributes:
        side: The side that the T-CoT is to describe.
        role: Whether it is a query or a target.
        counterpart: Modality of the other half.
        where: A name for errors.
    """

    side: Side
    role: Role
    counterpart: Modality
    where: str


def tcot_requests(tasks: Sequence[RetrievalTask]) -> dict[Key, TCoTRequest]:
    """Every T-CoT that the tasks need, equal sides in one situation once; those of one modality together.

    Args:
        tasks: The tasks; T-CoTs they have do not count.
    """
    requests: dict[Key, TCoTRequest] = {}
    for task in tasks:
        for role, sides, others, kind in (
            (Role.QUERY, task.queries, task.candidates, "query"),
            (Role.TARGET, task.candidates, task.queries, "candidate"),
        ):
            counterpart = others[0].modality
            for position, side in enumerate(sides):
                key = (side.key, situation(side.modality, role, counterpart))
                requests.setdefault(key, TCoTRequest(side, role, counterpart, f"{task.name}/{kind} {position}"))
    return dict(sorted(requests.items(), key=lambda item: (item[1].side.modality, item[0])))


def places_of(task: RetrievalTask, keys: Collection[Key]) -> tuple[dict[int, Key], dict[int, Key]]:
    """Where sides stand in a task.

    Args:
        task: The task.
        keys: Keys of sides, those of `tcot_requests`.

    Returns:
        The keys of those among the queries, and among the candidates, by position.
    """

    def places(sides: Sequence[Side], role: Role, counterpart: Modality) -> dict[int, Key]:
        every = ((side.key, situation(side.modality, role, counterpart)) for side in sides)
        return {i: key for i, key in enumerate(every) if key in keys}

    return (
        places(task.queries, Role.QUERY, task.candidates[0].modality),
        places(task.candidates, Role.TARGET, task.queries[0].modality),
    )


def with_tcots(task: RetrievalTask, tcots: Mapping[Key, str]) -> RetrievalTask:
    """The task with other T-CoTs; a side that has none there is left without.

    Args:
        task: The task.
        tcots: Texts by the keys of `tcot_requests`.
    """

    def fill(sides: Sequence[Side], role: Role, counterpart: Modality) -> list[Side]:
        keys = ((side.key, situation(side.modality, role, counterpart)) for side in sides)
        return [side.with_tcot(tcots.get(key, "")) for side, key in zip(sides, keys, strict=True)]

    return replace(
        task,
        queries=fill(task.queries, Role.QUERY, task.candidates[0].modality),
        candidates=fill(task.candidates, Role.TARGET, task.queries[0].modality),
    )


@torch.no_grad()
def generate_tcots(
    requests: Sequence[TCoTRequest],
    generator: Generator,
    device: torch.device,
    style: Style,
    batch_size: int,
    max_new_tokens: int,
    on_bad: OnBadMode = "raise",
    temperature: float = 0.0,
    top_p: float = 1.0,
) -> Iterator[list[str | BadSample]]:
    """Write T-CoTs, batch by batch; each ends after its last tag, as rollouts do.

    Args:
        requests: What to write.
        generator: The Reasoner, built.
        device: Where it is.
        style: Style of the prompts it knows.
        batch_size: Prompts that are answered at once.
        max_new_tokens: Longest T-CoT.
        on_bad: A side that cannot be shown: `raise`, or `skip`.
        temperature: 0 takes the likeliest token; otherwise tokens are drawn from the global generator.
        top_p: Draw among the likeliest tokens that hold this much probability.

    Yields:
        The T-CoTs of the next batch; in place of a bad side's, what is wrong with it.

    Raises:
        DataError: If a side cannot be shown and `on_bad` is `raise`; the message names the task and the position.
    """
    preprocessor = generator.preprocessor()
    was_training = generator.training
    generator.eval()
    try:
        for start in range(0, len(requests), batch_size):
            part = requests[start : start + batch_size]
            inputs, bad = _prompts(part, style, preprocessor, on_bad)
            moved = {name: value.to(device) for name, value in inputs.items()}
            texts = iter(generator.generate(moved, max_new_tokens, temperature, top_p, STOP) if moved else [])
            yield [bad[i] if i in bad else next(texts) for i in range(len(part))]
    finally:
        generator.train(was_training)


def _prompts(
    part: Sequence[TCoTRequest], style: Style, preprocessor: GeneratorPreprocessor, on_bad: OnBadMode
) -> tuple[ModelInputs, dict[int, BadSample]]:
    """The prompts of the good sides, empty if there is none, and the bad ones by position."""
    makers = [partial(reasoning_chat, item.side, item.role, item.counterpart, style) for item in part]
    inputs, wrong = good_prompts(makers, preprocessor)
    bad = {}
    for i, error in wrong.items():
        named = DataError(f"{part[i].where}: {error}", error.cause)
        if on_bad == "raise":
            raise named from error
        task, _, side = part[i].where.rpartition("/")
        bad[i] = BadSample.of(named, task, side)
    return inputs, bad


def write_tcots(
    tasks: Sequence[RetrievalTask],
    generator: Generator,
    device: torch.device,
    style: Style = "full",
    batch_size: int = 32,
    max_new_tokens: int = 512,
    rank: int = 0,
    skipped: list[BadSample] | None = None,
) -> list[RetrievalTask]:
    """The tasks with T-CoTs that a Reasoner writes greedily, distributed over ranks.

    Args:
        tasks: The tasks; T-CoTs they have are replaced.
        generator: The Reasoner.
        device: Where it is.
        style: Style of the prompts it knows.
        batch_size: Prompts that are answered at once.
        max_new_tokens: Longest T-CoT.
        rank: Rank of this process.
        skipped: Where to put the bad sides that this process met; the tasks go without those of all processes. None
            stops at the first.

    Raises:
        DataError: If a side cannot be shown and `skipped` is None, or nothing is left of a task.
    """
    requests = tcot_requests(tasks)
    mine = list(requests)[rank :: world_size()]
    batches = generate_tcots(
        [requests[key] for key in mine], generator, device, style, batch_size, max_new_tokens,
        "raise" if skipped is None else "skip",
    )  # fmt: skip
    texts = [text for batch in batches for text in batch]
    if skipped is not None:
        skipped += [bad for bad in texts if isinstance(bad, BadSample)]
    written = dict(gather_objects(list(zip(mine, texts, strict=True))))
    bad = {key for key, text in written.items() if isinstance(text, BadSample)}
    tcots = {key: text for key, text in written.items() if not isinstance(text, BadSample)}
    return [with_tcots(without(task, *places_of(task, bad)).task if bad else task, tcots) for task in tasks]
