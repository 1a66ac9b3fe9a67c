"""What an evaluation of a unified model's modes found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class ModeFigures:
    """The modes of a unified model on one task, by the task's main metric, 0..1.

    Attributes:
        metric: The metric.
        disc: Both sides in disc mode.
        gen: Both sides in gen mode, behind its own reasoning.
        oracle: The better of both for each query: an upper bound.
        best_of: The best of `samples` reasonings for each query, candidates in gen mode: an upper bound.
        samples: Reasonings a query of `best_of`.
        tokens: Tokens that a query's reasoning takes in the mean; 0 where latent steps stand in their place.
        thinking: Share of queries that reason: below 1 where a learned gate chooses, and gen is then in part disc.
        latent_steps: Latent steps a query; of a model that takes them, gen is read behind them, and nothing is drawn.
        no_gen_emb: Share of queries whose reasoning did not end by itself.
        disc_ms: Milliseconds a query in disc mode, at `batch_size` queries at once, on the device of the evaluation.
        gen_ms: The same in gen mode: writing, then embedding.
        batch_size: Queries at once.
    """

    metric: str
    disc: float
    gen: float
    oracle: float
    best_of: float
    samples: int
    tokens: float
    thinking: float
    latent_steps: int
    no_gen_emb: float
    disc_ms: float
    gen_ms: float
    batch_size: int


def table(figures: Mapping[str, ModeFigures], samples: int) -> str:
    """The figures of tasks as lines of text: bounds are named so.

    Args:
        figures: The figures by the task's name.
        samples: Reasonings a query of `best_of`.
    """
    head = (
        f"{'':20} {'disc':>6} {'gen':>6} {'oracle*':>8} {'pass*':>6} {'tokens':>7} {'latent':>7} {'disc ms':>8} "
        f"{'gen ms':>8}\n"
    )
    rows = [
        f"{name:20} {100 * f.disc:6.1f} {100 * f.gen:6.1f} {100 * f.oracle:8.1f} {100 * f.best_of:6.1f} "
        f"{f.tokens:7.1f} {f.latent_steps:7} {f.disc_ms:8.2f} {f.gen_ms:8.2f}\n"
        for name, f in figures.items()
    ]
    note = f"* upper bounds: the better mode per query; the best of {samples} reasonings per query\n"
    return head + "".join(rows) + note
