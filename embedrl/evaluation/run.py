"""`embedrl eval`: score a model on a benchmark, data set by data set."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import lightning
import torch
from torch import distributed

from embedrl.data.render import RenderOptions
from embedrl.data.sources import TaskSource
from embedrl.distributed.collectives import gather_objects, rank, world_size
from embedrl.errors import ConfigError, DataError
from embedrl.evaluation.jobs import Job, find_jobs, find_published, select_jobs, split_by_presence
from embedrl.evaluation.output_dir import check_same_model, prepare_output_dir, write_provenance
from embedrl.evaluation.report import QUERIES, Submission, make_report, print_report, write_report
from embedrl.evaluation.results import SetResult, rank_task, set_result, write_queries
from embedrl.evaluation.tcots import TCoTOptions, TCoTs, count_raw
from embedrl.evaluation.vectors import EncodeOptions, VectorCache
from embedrl.inference.tcot_writer import with_tcots
from embedrl.metrics.retrieval import KS, RankingMetric, check_metrics
from embedrl.models.backbone import Backbone
from embedrl.models.generator import Generator
from embedrl.training.checkpoints import config_form
from embedrl.training.run_folder import lock_run, unlock_run
from embedrl.types import RetrievalTask
from embedrl.utils.console import escaped
from embedrl.utils.secrets import without_secrets


def evaluate(
    benchmark: str,
    backbone: Backbone,
    out: Path,
    render: RenderOptions = RenderOptions(),  # noqa: B008 (frozen)
    root: Path | None = None,
    sets: list[str] | None = None,
    tasks: list[TaskSource] | None = None,
    reasoner: Generator | None = None,
    tcots: TCoTOptions = TCoTOptions(),  # noqa: B008 (frozen)
    encode: EncodeOptions = EncodeOptions(),  # noqa: B008 (frozen)
    keep: int = 100,
    on_bad: Literal["raise", "skip"] = "raise",
    beside: list[str] | None = None,
    submission: Submission = Submission(),  # noqa: B008 (frozen)
    device: Literal["auto", "cpu", "cuda"] = "auto",
    seed: int = 0,
    metrics: list[RankingMetric] | None = None,
) -> None:
    """Score a model on a benchmark: a table, `scores.json` for the leaderboard, results of every query, provenance.

    Several processes (`torchrun --nproc_per_node 2 -m embedrl eval ...`) share the work. Restarted after an
    interruption, it resumes: finished vectors and T-CoTs are not computed again.

    Args:
        benchmark: `mmeb_v2`, `uvrb`, `world`, or a name of your own for the `tasks` you give.
        backbone: The Embedder.
        out: Folder of the results: new, empty, or that of the same evaluation.
        render: What the Embedder reads of a side: `tcot` and `cues` are the switches of the ablations;
            `on_missing_tcot: raw` embeds sides without a T-CoT as they are, and counts them.
        root: Folder with the local copy of `mmeb_v2` or `uvrb`.
        sets: Score these data sets only; the others are listed as missing.
        tasks: Where the tasks of `world`, or of your own benchmark, come from.
        reasoner: A Reasoner that writes the T-CoTs missing from the cache.
        tcots: Where T-CoTs are stored, and how they are written.
        encode: Where vectors are stored, and how they are computed.
        keep: Number of best candidates to store for every query.
        on_bad: A row or a data set that cannot be read: `raise`, or `skip`, counted and listed.
        beside: Models whose published figures are printed beside the results.
        submission: The description of the model in `scores.json`.
        device: Where to compute; auto takes a GPU if there is one.
        seed: Seed of weights that no checkpoint holds.
        metrics: Metrics to report besides the standard ones, such as `embedrl.metrics.HitRate` with its k.

    Raises:
        ConfigError: If a flag is wrong, or `out` holds something else.
        DataError: If data are missing or broken, or T-CoTs are missing.
        CheckpointError: If a model cannot be read.
        NonFiniteError: If a vector is NaN or infinite.
    """
    given = dict(locals())
    everything = find_jobs(benchmark, root, tasks, on_bad)
    jobs = select_jobs(everything, sets)
    others = find_published(benchmark, beside or [])
    if metrics is not None:
        check_metrics(metrics, "--metrics")
    needed = max([*KS, *(metric.k for metric in metrics or ())])
    if keep < needed:
        raise ConfigError(f"--keep {keep}: the metrics need the best {needed}")
    if reasoner is not None and render.tcot == "none":
        raise ConfigError("--reasoner with --render.tcot none: nobody would read its T-CoTs; leave one of them out")
    settings = without_secrets({name: config_form(value) for name, value in given.items()})
    with _processes(device) as (place, rank):
        absent = {job.name: "not asked for" for job in everything if job not in jobs}
        jobs, unavailable = split_by_presence(jobs, on_bad, list_absent=rank == 0)
        absent |= unavailable
        if rank == 0:
            prepare_output_dir(out, settings)
            lock_run(out)
        if world_size() > 1:
            distributed.barrier()  # no process writes before rank 0 has checked the folder
        lightning.seed_everything(seed, verbose=False)
        started = time.monotonic()
        vectors = VectorCache(encode.cache or out / "vectors", backbone, render, place, encode, rank)
        writer = TCoTs(tcots, reasoner, place, out / "tcots.jsonl", rank)
        if rank == 0:
            check_same_model(out, vectors.identity)
        results: list[SetResult] = []
        dimension = 0
        for number, job in enumerate(jobs, 1):
            try:
                task, skipped = job.read()
            except DataError as error:
                if on_bad == "raise":
                    raise
                absent[job.name] = str(error)
                continue
            result, dimension = _score(job, task, skipped, vectors, writer, keep, metrics or [], out, rank)
            if rank == 0 and result is not None:
                results.append(result)
                figure = f"{result.main_metric} {100 * result.score:.1f} ({time.monotonic() - started:.0f} s)"
                sys.stderr.write(escaped(f"[{number}/{len(jobs)}] {job.name}: {figure}\n"))
        writer.close()
        computed = sum(gather_objects([vectors.computed]))
        if rank == 0:
            if not results:
                raise DataError(f"no data set could be read; {jobs[0].name}: {absent[jobs[0].name]}")
            report = make_report(benchmark, results, absent, vectors.identity)
            limit = getattr(vectors.backbone, "max_length", None)
            write_report(out, report, submission, dimension, limit if isinstance(limit, int) else None)
            write_provenance(out, settings, vectors, place, computed, time.monotonic() - started)
            print_report(report, others)
            sys.stdout.write(escaped(f"Wrote {out}\n"))
            unlock_run(out)


def _score(
    job: Job,
    task: RetrievalTask,
    skipped: Mapping[str, int],
    vectors: VectorCache,
    writer: TCoTs,
    keep: int,
    metrics: Sequence[RankingMetric],
    out: Path,
    rank: int,
) -> tuple[SetResult | None, int]:
    """Write the T-CoTs of a task and embed it, on all processes; rank 0 ranks the candidates."""
    counts: dict[str, int] = {}
    if vectors.options.tcot == "none":
        task = with_tcots(task, {})  # no T-CoT is read, none is counted
    else:
        task, counts = writer.fill(task)
    raw = count_raw(task, vectors.options, writer.place)
    hashes = vectors.hashes(task.queries), vectors.hashes(task.candidates)
    queries = vectors.embed(task.queries, hashes[0], f"{task.name}/query")
    candidates = vectors.embed(task.candidates, hashes[1], f"{task.name}/candidate")
    if rank != 0:
        return None, 0
    rankings = rank_task(task, queries, candidates, keep)
    result = set_result(task, job.group, rankings, hashes, job.expected_queries, raw, counts, skipped, metrics)
    folder = out / QUERIES
    folder.mkdir(exist_ok=True)
    write_queries(folder / f"{job.name.replace('/', '_')}.parquet", task, rankings[0])
    return result, next(iter(queries.read())).shape[1]


@contextmanager
def _processes(device: str) -> Iterator[tuple[torch.device, int]]:
    """The device of this process and its rank; joins the other processes if torchrun started several."""
    cuda = torch.cuda.is_available() and device != "cpu"
    if device == "cuda" and not cuda:
        raise ConfigError("--device cuda: torch finds no GPU here; give cpu or auto")
    place = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(place)
    mine = int(os.environ.get("WORLD_SIZE", "1")) > 1 and not distributed.is_initialized()
    if mine:
        distributed.init_process_group("nccl" if cuda else "gloo")
    try:
        yield place, rank()
    finally:
        if mine:
            distributed.destroy_process_group()
