"""Verifiable evidence: does the T-CoT point at what is known to be needed? Source: MCR (2602.04486), CVO's reward."""

from __future__ import annotations

import logging
import math
import re
from collections import defaultdict
from dataclasses import astuple, dataclass, fields

from embedrl.errors import ConfigError
from embedrl.metrics.replies import f1, matched_iou
from embedrl.rl.types import RewardResult, RolloutStep
from embedrl.tcot.chat import side_of
from embedrl.tcot.cue_removal import without_cues
from embedrl.tcot.schema import TCoT
from embedrl.types import GoldEvidence

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EvidenceWeights:
    """What each part counts (λ of MCR, all 1 there); 0 leaves a part out.

    Attributes:
        count: 1 if as many boxes, key frames or keywords are named as there are, else 0.
        span: F1 of the keywords of a text, or of the key frames of a video: equal ones match.
        type: Share of `GoldEvidence.names` that the `rethink` or the `answer` names, as whole words.
        box: Sum of the matched boxes' IoU over the larger number of boxes, an IoU below the threshold counting as 0.
        visible: 1 if boxes are named where there are some, and none where there are none; else 0.
    """

    count: float = 1.0
    span: float = 1.0
    type: float = 1.0
    box: float = 1.0
    visible: float = 1.0

    def __post_init__(self) -> None:
        """Check the range.

        Raises:
            ConfigError: If a weight is negative, or all are 0.
        """
        for field in fields(self):
            weight = getattr(self, field.name)
            if not 0 <= weight < math.inf:
                raise ConfigError(f"evidence.weights.{field.name} is {weight}: give a number from 0 on")
        if not any(astuple(self)):
            raise ConfigError("evidence.weights are all 0: raise one, or delete the reward")


class EvidenceReward:
    """R_e = Σ λ_k · part_k / Σ λ_k, over the parts that the side's gold evidence (`Side.gold`) lets one compute.

    Supervision: it needs the right evidence of the training pairs, which no other reward does. Use it where that is
    known, as in the built-in world and in data with annotated boxes; a T-CoT's value to retrieval it does not measure.

    Parts are those of `EvidenceWeights`. `count` is of the cues that the side's modality asks for, `span` of text and
    video, `box` and `visible` of pictures, `type` wherever names are known. A side of which nothing is known gets 0 for
    every rollout, which changes no advantage: those are normalised within the side's group. A data set without any is
    named once.

    Args:
        weights: λ.
        iou_threshold: Least IoU that counts (σ of MCR). 0 is the plain IoU: denser, since it pays boxes that are far
            off a little; of advantage as long as few boxes of a group are good.

    Raises:
        ConfigError: If an option is out of its range.

    Source: MCR (2602.04486), R = λ1 R_count + λ2 R_span + λ3 R_type + λ4 R_ground + λ5 R_entail; a T-CoT has no types,
    so `type` looks for names, and dividing by Σ λ makes sides with few parts count as much as others.

    >>> from embedrl.rl.types import Rollout
    >>> from embedrl.tcot.parser import build, parse
    >>> from embedrl.types import Modality, Pair, Role, Side
    >>> gold = GoldEvidence(spans=("grey cat", "mat"), names=("cat",))
    >>> pair = Pair(Side("a grey cat on a mat", gold=gold), Side("A cat sits."), "demo", "0")
    >>> text = build(Modality.TEXT, "A cat.", "Only the cat.", "A cat.", keywords=["grey cat"]).render()
    >>> rollout = Rollout(0, Role.QUERY, 0, (), (), text)
    >>> step = RolloutStep([pair], [rollout], {}, {rollout.id: parse(text, Modality.TEXT)}, frozenset([rollout.id]))
    >>> EvidenceReward()(step).values  # count 0, span 2/3, type 1
    {'0/query/0': 0.555...}
    """

    name = "evidence"

    def __init__(
        self,
        weights: EvidenceWeights = EvidenceWeights(),
        iou_threshold: float = 0.5,
    ) -> None:
        if not 0 <= iou_threshold <= 1:
            raise ConfigError(
                f"evidence.iou_threshold is {iou_threshold}: give an IoU from 0 (plain) to 1, such as 0.5"
            )
        self.weights, self.iou_threshold = weights, iou_threshold
        self._without: set[str] = set()  # the data sets that were named as such

    def __call__(self, step: RolloutStep) -> RewardResult:
        """Score the rollouts of this process."""
        dataset = step.pairs[0].dataset
        if dataset not in self._without and not any(p.query.gold or p.target.gold for p in step.pairs):
            self._without.add(dataset)
            _log.warning(
                "the reward evidence takes no part in %s: no side of a step carries gold evidence (`gold: true` of the "
                "built-in world, the key `gold` of a side in JSON lines)", dataset,
            )  # fmt: skip
        values: dict[str, float | None] = {}
        shown: dict[str, list[float]] = defaultdict(list)
        for rollout in step.rollouts:
            if rollout.id not in step.mine:
                continue
            gold = side_of(step.pairs[rollout.pair], rollout.role).gold
            parts = {} if gold is None else evidence_parts(step.parsed[rollout.id].tcot, gold, self.iou_threshold)
            weights = {name: getattr(self.weights, name) for name in parts}
            total = sum(weights.values())
            values[rollout.id] = sum(weights[name] * part for name, part in parts.items()) / total if total else 0.0
            for name, part in parts.items():
                shown[name].append(part)
            shown["known"].append(float(bool(parts)))
        return RewardResult(values, {name: sum(parts) / len(parts) for name, parts in shown.items()})


def evidence_parts(tcot: TCoT, gold: GoldEvidence, iou_threshold: float) -> dict[str, float]:
    """The parts of `EvidenceWeights` that the gold evidence lets one compute, each in 0..1.

    Args:
        tcot: The T-CoT as it was read.
        gold: The side's evidence.
        iou_threshold: Least IoU that counts.
    """
    cues = tcot.cues
    parts: dict[str, float] = {}
    kinds = [(cues.boxes, gold.boxes), (cues.key_frames, gold.frames), (cues.text_keywords, gold.spans)]
    known = [(len(named), len(right)) for named, right in kinds if right is not None]
    if known:
        parts["count"] = float(all(named == right for named, right in known))
    spans = [f1(set(cues.text_keywords), set(gold.spans))] if gold.spans is not None else []
    spans += [f1(set(cues.key_frames), set(gold.frames))] if gold.frames is not None else []
    if spans:
        parts["span"] = sum(spans) / len(spans)
    if gold.names:
        said = without_cues(f"{tcot.rethink}\n{tcot.answer}")
        parts["type"] = sum(_names(said, name) for name in gold.names) / len(gold.names)
    if gold.boxes is not None:
        parts["visible"] = float(bool(cues.boxes) == bool(gold.boxes))
    if gold.boxes:
        parts["box"] = matched_iou(cues.boxes, gold.boxes, iou_threshold)
    return parts


def _names(text: str, name: str) -> bool:
    """Whether a text names something: the name's words one after another, in any case, as whole words."""
    words = r"\s+".join(map(re.escape, name.split()))
    return re.search(rf"(?<!\w){words}(?!\w)", text, re.IGNORECASE) is not None
