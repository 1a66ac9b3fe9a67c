"""What a Reasoner wrote of queries, and whether it found their targets, on disk."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from embedrl.utils.record_store import RecordStore


@dataclass(frozen=True, slots=True)
class RolledOut:
    """The rollouts of a pair's query.

    Attributes:
        key: `<data set>/<id>`.
        dataset: Name of the data set in its mix.
        id: The pair's id.
        row: Its row in the data set.
        tcots: The T-CoTs that were drawn.
        successes: Of each, 1 if its vector found the target among the targets of the other pairs, 0 if not.
    """

    key: str
    dataset: str
    id: str
    row: int
    tcots: list[str]
    successes: list[int]


class RolledOutStore(RecordStore[RolledOut]):
    """Rollouts on disk, a JSON line for each pair."""

    def record(self, row: dict[str, Any]) -> RolledOut:
        """See `RecordStore`."""
        return RolledOut(**row)

    def problem(self, row: dict[str, Any]) -> str:
        """See `RecordStore`."""
        fields = set(RolledOut.__slots__)
        if row.keys() != fields:
            return f"holds {', '.join(row)}, not {', '.join(RolledOut.__slots__)}"
        return "" if len(row["tcots"]) == len(row["successes"]) else "has not as many `successes` as `tcots`"
