"""What is counted in one data set of a mix."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from embedrl.data.on_bad import BadSample
from embedrl.tcot.chat import side_of
from embedrl.tcot.parser import parse
from embedrl.types import Modality, Pair, Role

CUES = {Modality.TEXT: "keywords", Modality.IMAGE: "boxes", Modality.VIDEO: "key frames"}


@dataclass
class Figures:
    """What was counted in one data set.

    Attributes:
        name: Name of the data set.
        pairs: Number of its pairs.
        looked_at: Number of those that were counted.
        modalities: Pairs by the modalities of query and target, e.g. `image → text`.
        words: Words of the texts, by role.
        tcot_words: Words of the T-CoTs, by role.
        cues: Number of cues of each T-CoT, by kind.
        well_formed: T-CoTs that follow the template.
        targets: Content keys of the targets.
        failures: Pairs that construction left out, rows that cannot be read, and pairs whose pictures cannot, by cause.
        broken: The latter two.
    """

    name: str
    pairs: int
    looked_at: int = 0
    modalities: Counter[str] = field(default_factory=Counter)
    words: dict[Role, list[int]] = field(default_factory=lambda: {role: [] for role in Role})
    tcot_words: dict[Role, list[int]] = field(default_factory=lambda: {role: [] for role in Role})
    cues: dict[str, list[int]] = field(default_factory=lambda: {kind: [] for kind in CUES.values()})
    well_formed: int = 0
    targets: set[str] = field(default_factory=set)
    failures: Counter[str] = field(default_factory=Counter)
    broken: list[BadSample] = field(default_factory=list)

    def add(self, pair: Pair) -> None:
        """Count a pair."""
        self.looked_at += 1
        self.modalities[f"{pair.query.modality} → {pair.target.modality}"] += 1
        self.targets.add(pair.target.key)
        for role in Role:
            side = side_of(pair, role)
            self.words[role].append(len(side.text.split()))
            if side.tcot.strip():
                read = parse(side.tcot, side.modality, len(side.frames) or None)
                self.tcot_words[role].append(len(side.tcot.split()))
                self.cues[CUES[side.modality]].append(len(read.tcot.cues.of(side.modality)))
                self.well_formed += read.ok

    def leave_out(self, sample: BadSample) -> None:
        """Count a row that cannot be read, or a pair whose pictures cannot."""
        self.failures[sample.cause] += 1
        self.broken.append(sample)
