"""What `egrl_world.py` measures of a Reasoner: hits of its T-CoTs, how its evidence fits, and the tokens it spends."""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml
from jsonargparse import ArgumentParser

from embedrl.data.render import RenderOptions
from embedrl.data.world import WorldTasks
from embedrl.evaluation.search_options import SearchMode, SearchOptions
from embedrl.evaluation.tcots import TCoTOptions, TCoTs
from embedrl.evaluation.vectors import VectorCache
from embedrl.inference.frozen_embedder import LENIENT, FrozenEmbedder
from embedrl.inference.tcot_writer import tcot_requests, write_tcots
from embedrl.metrics.replies import f1, matched_iou
from embedrl.models.backbone import Backbone
from embedrl.models.qwen_vl.reasoner import QwenVLReasoner
from embedrl.tcot.parser import parse
from embedrl.types import Modality, RetrievalTask, Role, Side
from embedrl.utils.atomic_files import replacing

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
CPU = torch.device("cpu")
EVIDENCE = ("format", "answer", "iou", "f1", "keyword_f1")
TOKENS = "tokens a query"


@dataclass(frozen=True)
class Data:
    """What is measured on.

    Attributes:
        split: Split of the world.
        size: Queries a family.
        limit: Longest T-CoT in tokens.
    """

    split: str
    size: int
    limit: int = 96

    def tasks(self) -> list[RetrievalTask]:
        """The families that the quickstart's EG-RL validates on, with the perfect teacher's T-CoTs."""
        recipe = yaml.safe_load((CONFIGS / "quickstart/egrl.yaml").read_text())
        [families] = [
            source["init_args"]["families"]
            for callback in recipe["trainer"]["callbacks"]
            for source in callback.get("init_args", {}).get("tasks", [])
        ]
        return list(WorldTasks(split=self.split, size=self.size, families=families).tasks())  # type: ignore[arg-type]


def load_embedder(model: Path) -> Backbone:
    """The Embedder that a run left behind, as EG-RL's recipe reads it."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Backbone, "backbone")
    part = yaml.safe_load((CONFIGS / "parts/backbone/quickstart_embedder.yaml").read_text())
    part["init_args"]["path"] = str(model)
    backbone: Backbone = parser.instantiate(parser.parse_object({"backbone": part})).backbone
    return backbone


def evaluate(file: Path, model: Path | None, embedder: Path, rows: Mapping[str, RenderOptions], data: Data) -> None:
    """Write the scores of a Reasoner's T-CoTs to a JSON file, unless they are there.

    Args:
        file: The file.
        model: The Reasoner; None: the T-CoTs are the perfect teacher's.
        embedder: The Embedder that ranks.
        rows: Name → what the Embedder sees of the T-CoTs.
        data: The queries.
    """
    if file.exists():
        return
    gold = data.tasks()
    tasks: Sequence[RetrievalTask] = gold
    figures: dict[str, float] = {}
    if model is not None:
        generator = QwenVLReasoner(str(model))
        generator.build()
        tasks = write_tcots(gold, generator, CPU, style="brief", batch_size=64, max_new_tokens=data.limit)
        count = generator.processor.tokenizer
        written = {(t.name, s.key): s.tcot for t in tasks for s in t.queries}
        lengths = [len(count(text, add_special_tokens=False)["input_ids"]) for text in written.values()]
        figures[TOKENS] = statistics.mean(lengths)
    figures |= evidence_means(tasks, gold)
    backbone = load_embedder(embedder)
    hits = {name: score(tasks, FrozenEmbedder(backbone, render)) for name, render in rows.items()}
    save(file, {name: {"hits": found, **figures} for name, found in hits.items()})


def search(
    file: Path, row: str, model: Path, embedder: Path, mode: SearchMode, options: SearchOptions, data: Data
) -> None:
    """Write the scores of T-CoTs that are searched for to a JSON file, unless they are there.

    T-CoTs lie in a journal beside the file: a search that was stopped goes on.

    Args:
        file: The file.
        row: Name of the row.
        model: The Reasoner.
        embedder: The Embedder that ranks, for the search as well.
        mode: `best_of_n` or `mcts`.
        options: How T-CoTs are searched for.
        data: The queries.
    """
    if file.exists():
        return
    gold, generator = data.tasks(), QwenVLReasoner(str(model))
    vectors = VectorCache(file.with_suffix(".vectors"), load_embedder(embedder), LENIENT, CPU)
    how = TCoTOptions(style="brief", batch_size=64, max_new_tokens=data.limit, search=mode, searching=options)
    tasks, spent = gold, []
    for roles in ((Role.TARGET,), tuple(Role)):  # the candidates by themselves, for what the queries cost
        writer = TCoTs(how, generator, CPU, file.with_suffix(".jsonl"), roles=roles, vectors=vectors)
        filled = [writer.fill(task) for task in gold]
        writer.close()
        spent.append(sum(counts["tokens"] for _, counts in filled))
        tasks = [task for task, _ in filled]
    queries = sum(one.role is Role.QUERY for task in gold for one in tcot_requests([task]).values())
    figures = {TOKENS: (spent[1] - spent[0]) / queries, **evidence_means(tasks, gold)}
    save(file, {row: {"hits": score(tasks, FrozenEmbedder(vectors.backbone, LENIENT)), **figures}})


def score(tasks: Sequence[RetrievalTask], embedder: FrozenEmbedder) -> dict[str, list[float]]:
    """For every task, 0 or 1 a query: whether a right candidate comes first."""
    results = embedder.score(tasks, CPU)
    return {r.task.name: (r.ranking.relevance[:, 0] > 0).float().tolist() for r in results}


def evidence_means(tasks: Sequence[RetrievalTask], gold: Sequence[RetrievalTask]) -> dict[str, float]:
    """What `EVIDENCE` names: means over all sides of how their T-CoTs compare with the perfect teacher's."""
    sides = [[side for task in part for side in (*task.queries, *task.candidates)] for part in (tasks, gold)]
    return mean_evidence(*sides)


def mean_evidence(sides: Sequence[Side], rights: Sequence[Side]) -> dict[str, float]:
    """What `EVIDENCE` names: means of how the sides' T-CoTs compare with the perfect teacher's."""
    found: dict[str, list[float]] = defaultdict(list)
    for side, right in zip(sides, rights, strict=True):
        for name, value in evidence(side, right).items():
            found[name].append(value)
    return {name: statistics.mean(values) for name, values in found.items()}


def evidence(side: Side, right: Side) -> dict[str, float]:
    """How a side's T-CoT compares with the perfect teacher's."""
    frames = len(side.frames) or None
    read, gold = parse(side.tcot, side.modality, frames), parse(right.tcot, right.modality, frames).tcot
    cues = read.tcot.cues
    figures = {"format": float(read.ok), "answer": float(read.tcot.answer.strip() == gold.answer.strip())}
    if side.modality is Modality.TEXT:
        return figures | {"keyword_f1": f1(set(cues.text_keywords), set(gold.cues.text_keywords))}
    if side.modality is Modality.VIDEO:
        return figures | {"f1": f1(set(cues.key_frames), set(gold.cues.key_frames))}
    return figures | {"iou": matched_iou(cues.boxes, gold.cues.boxes)}


def save(file: Path, content: object) -> None:
    """Write a JSON file whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file) as part:
        part.write_text(json.dumps(content))


def link(place: Path, to: Path) -> None:
    """Let a path lead to another one, unless it leads somewhere."""
    place.parent.mkdir(parents=True, exist_ok=True)
    if not place.exists():
        place.unlink(missing_ok=True)  # a link into a checkout that has gone
        place.symlink_to(to.resolve())
