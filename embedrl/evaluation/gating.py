"""T-CoTs for those queries alone that their raw vectors are not sure of."""

from __future__ import annotations

from dataclasses import replace

from embedrl.distributed.collectives import gather_objects
from embedrl.evaluation.remaining import Remaining
from embedrl.evaluation.results import rank_task
from embedrl.evaluation.tcots import TCoTs
from embedrl.evaluation.vectors import VectorCache
from embedrl.metrics.confidence import ConfidenceGate


def reason_on_demand(
    left: Remaining, writer: TCoTs, vectors: VectorCache, gate: ConfidenceGate, rank: int
) -> dict[str, int]:
    """Give all candidates T-CoTs, and the queries that the gate chooses; the others stay raw.

    The raw queries are ranked against the candidates as they will be searched. All processes call together.

    Args:
        left: The data set, its sides hashed.
        writer: Where T-CoTs come from.
        vectors: What embeds.
        gate: Who thinks.
        rank: Rank of this process.

    Returns:
        What `TCoTs.fill` counts, and how many queries were `thinking`.

    Raises:
        DataError, TooManyBadError: As `Remaining.embed`.
    """
    own = {side.key: side.tcot for side in left.task.queries}
    first = left.reason(writer, thinking=())
    queries, candidates = left.embed(vectors)
    chosen: list[int] = []
    if rank == 0:
        scores = rank_task(left.task, queries, candidates, gate.top)[0].scores
        chosen = gate.thinks(scores).nonzero().flatten().tolist()
    chosen = gather_objects(chosen)
    restored = [side.with_tcot(own[side.key]) for side in left.task.queries]
    left.task = replace(left.task, queries=restored)
    second = left.reason(writer, thinking=chosen)
    if not second:
        return {"thinking": len(chosen)}
    written = first["written"] + second["written"]
    return {**second, "cached": second["cached"] - first["written"], "written": written, "thinking": len(chosen)}
