"""`embedrl eval`: score a model on a benchmark, data set by data set."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import lightning
from torch import distributed

from embedrl.data.lenient_render import as_lenient
from embedrl.data.on_bad import FILE, MAX_BAD, OnBad, OnBadMode
from embedrl.data.render import RenderOptions, check_latent
from embedrl.data.sources import TaskSource
from embedrl.distributed.collectives import gather_objects, world_size
from embedrl.distributed.processes import Device, processes
from embedrl.errors import ConfigError, DataError, EmbedRLError
from embedrl.evaluation.gating import reason_on_demand
from embedrl.evaluation.jobs import Job, find_jobs, find_published, select_jobs, split_by_presence
from embedrl.evaluation.modes import Modes, ModeScorer
from embedrl.evaluation.output_dir import check_same_model, prepare_output_dir, write_provenance
from embedrl.evaluation.remaining import Remaining
from embedrl.evaluation.report import QUERIES, Submission, make_report, print_report, write_report
from embedrl.evaluation.results import SetResult, rank_task, set_result, write_queries
from embedrl.evaluation.stored import Storage, Vectors, rank_stored
from embedrl.evaluation.tcots import TCoTOptions, TCoTs, count_raw
from embedrl.evaluation.vectors import EncodeOptions, VectorCache
from embedrl.metrics.retrieval import KS, RankingMetric, check_metrics
from embedrl.models.backbone import Backbone
from embedrl.models.exported import matryoshka_dims
from embedrl.models.generator import Generator
from embedrl.training.checkpoints import config_form
from embedrl.training.run_folder import lock_run, unlock_run
from embedrl.training.trained_model import load_embedder
from embedrl.types import RetrievalTask, Role
from embedrl.utils.console import escaped
from embedrl.utils.file_names import file_name
from embedrl.utils.secrets import without_secrets


def evaluate(
    benchmark: str,
    out: Path,
    backbone: Backbone | None = None,
    checkpoint: str | None = None,
    render: RenderOptions = RenderOptions(),  # noqa: B008 (frozen)
    root: Path | None = None,
    sets: list[str] | None = None,
    tasks: list[TaskSource] | None = None,
    reasoner: Generator | None = None,
    tcots: TCoTOptions = TCoTOptions(),  # noqa: B008 (frozen)
    encode: EncodeOptions = EncodeOptions(),  # noqa: B008 (frozen)
    keep: int = 100,
    on_bad: OnBadMode = "raise",
    max_bad: int = MAX_BAD,
    beside: list[str] | None = None,
    submission: Submission = Submission(),  # noqa: B008 (frozen)
    device: Device = "auto",
    seed: int = 0,
    metrics: list[RankingMetric] | None = None,
    vectors: Vectors = "float32",
    dim: int | None = None,
    rescore: int = 0,
    modes: Modes | None = None,
) -> None:
    """Score a model on a benchmark: a table, `scores.json` for the leaderboard, results of every query, provenance.

    Several processes (`torchrun --nproc_per_node 2 -m embedrl eval ...`) share the work. Restarted after an
    interruption, it resumes: finished vectors and T-CoTs are not computed again.

    Args:
        benchmark: `mmeb_v2`, `uvrb`, `world`, or a name of your own for the `tasks` you give.
        out: Folder of the results: new, empty, or that of the same evaluation.
        backbone: The Embedder, with all its options.
        checkpoint: The Embedder, in the place of `backbone`: a `.ckpt` or the folder of a run of `embedrl fit`, whose
            newest `last.ckpt` is taken; a folder that `embedrl export` wrote; any Qwen3-VL folder or Hub name.
        render: What the Embedder reads of a side: `tcot` and `cues` are the switches of the ablations;
            `on_missing_tcot: raw` embeds sides without a T-CoT as they are, and counts them.
        root: Folder with the local copy of `mmeb_v2` or `uvrb`.
        sets: Score these data sets only; the others are listed as missing.
        tasks: Where the tasks of `world`, or of your own benchmark, come from.
        reasoner: A Reasoner that writes the T-CoTs missing from the cache.
        tcots: Where T-CoTs are stored, and how they are written.
        encode: Where vectors are stored, and how they are computed.
        keep: Number of best candidates to store for every query.
        on_bad: A row, a side or a data set that cannot be read: `raise`, or `skip`, counted by cause in the report and
            named in `skipped.jsonl`. Either way the data sets that were scored before are reported.
        max_bad: The most rows and sides that `skip` leaves out; one more stops the run.
        beside: Models whose published figures are printed beside the results.
        submission: The description of the model in `scores.json`.
        device: Where to compute; auto takes a GPU if there is one.
        seed: Seed of weights that no checkpoint holds.
        metrics: Metrics to report besides the standard ones, such as `embedrl.metrics.HitRate` with its k.
        vectors: Score the vectors as an index would store them, too, and report the change: `int8`, or `binary`.
        dim: The same of their first `dim` numbers, normalised again.
        rescore: With int8 and binary: score this many of the best candidates again, by the query's float32 vector.
        modes: Of a unified model: the mode of each side, whose reasoning is read, and whether to report upper bounds
            and what reasoning costs (`modes.json`).

    Raises:
        ConfigError: If a flag is wrong, or `out` holds something else.
        DataError: If data are missing or broken, or T-CoTs are missing.
        CheckpointError: If a model cannot be read.
        NonFiniteError: If a vector is NaN or infinite.
    """
    given = dict(locals())
    bad = OnBad(on_bad, max_bad, "--")
    everything = find_jobs(benchmark, root, tasks, on_bad, bad)
    jobs = select_jobs(everything, sets)
    others = find_published(benchmark, beside or [])
    if metrics is not None:
        check_metrics(metrics, "--metrics")
    needed = max([*KS, *(metric.k for metric in metrics or ())])
    if keep < needed:
        raise ConfigError(f"--keep {keep}: the metrics need the best {needed}")
    storage = Storage(vectors, dim, rescore)
    if reasoner is not None and render.tcot == "none":
        raise ConfigError("--reasoner with --render.tcot none: nobody would read its T-CoTs; leave one of them out")
    if tcots.gate is not None and (render.tcot == "none" or render.on_missing_tcot != "raw"):
        raise ConfigError(
            "--tcots.gate embeds the queries that do not think as they are: give --render.on_missing_tcot raw, and a "
            "--render.tcot other than none"
        )
    if checkpoint is not None:
        given["backbone"] = None  # what was not used is not written down
        backbone = load_embedder(checkpoint)
    if backbone is None:
        raise ConfigError("no Embedder: give --checkpoint (a run, a .ckpt, an export) or --backbone")
    unified = None if modes is None else modes.check(backbone)
    if modes is not None:
        if modes.latent:
            render = replace(render, tcot="latent")
        elif modes.reasoning == "own":
            render = as_lenient(render)  # nothing that a model writes is an error
        elif len(modes.roles) < len(Role):
            render = replace(render, on_missing_tcot="raw")
        reasoner = reasoner or (unified if modes.roles and modes.reasoning == "own" else None)
    check_latent(render, backbone.preprocessor(), "--render")
    lengths = matryoshka_dims(backbone)
    storage.check(needed, lengths)
    settings = without_secrets({name: config_form(value) for name, value in given.items()})
    with processes(device) as (place, rank):
        absent = {job.name: "not asked for" for job in everything if job not in jobs}
        jobs, unavailable = split_by_presence(jobs, on_bad, list_absent=rank == 0)
        absent |= unavailable
        if rank == 0:
            prepare_output_dir(out, settings)
            lock_run(out)
            bad.keep(out / FILE)
        if world_size() > 1:
            distributed.barrier()  # no process writes before rank 0 has checked the folder
        lightning.seed_everything(seed, verbose=False)
        started = time.monotonic()
        cache = VectorCache(encode.cache or out / "vectors", backbone, render, place, encode, rank)
        roles = tuple(Role) if modes is None else tuple(modes.roles)
        writer = TCoTs(tcots, reasoner, place, out / "tcots.jsonl", rank, roles, cache)
        scorer = None
        if modes is not None and unified is not None and modes.bounds:
            scorer = ModeScorer(modes, unified, render, tcots, place, out / "modes.json", rank)
        if rank == 0:
            check_same_model(out, cache.identity)
        results: list[SetResult] = []

        def report() -> None:
            """Write and print what has been scored."""
            facts = None if storage.exact else {**storage.facts(cache.dimension), "listed_dims": lengths}
            made = make_report(benchmark, results, absent, cache.identity, facts)
            limit = getattr(cache.backbone, "max_length", None)
            write_report(out, made, submission, cache.dimension, limit if isinstance(limit, int) else None)
            print_report(made, others)
            if bad.counts:
                sys.stdout.write(escaped(f"{bad.path} names the {bad.counts.total()} rows and sides left out\n"))

        try:
            for number, job in enumerate(jobs, 1):
                try:
                    task, skipped = job.read()
                    result = _score(
                        job, task, skipped, cache, writer, keep, storage, metrics or [], out, rank, bad, modes, scorer
                    )
                except DataError as error:
                    if on_bad == "raise":
                        raise
                    absent[job.name] = str(error)
                    continue
                if rank == 0 and result is not None:
                    results.append(result)
                    figure = f"{result.main_metric} {100 * result.score:.1f} ({time.monotonic() - started:.0f} s)"
                    sys.stderr.write(escaped(f"[{number}/{len(jobs)}] {job.name}: {figure}\n"))
        except EmbedRLError as error:
            if rank == 0 and results:
                absent |= {later.name: f"the run stopped before, at {job.name}" for later in jobs[number:]}
                absent[job.name] = str(error)
                report()
            raise
        writer.close()
        computed = sum(gather_objects([cache.computed]))
        if rank == 0:
            if not results:
                raise DataError(f"no data set could be read; {jobs[0].name}: {absent[jobs[0].name]}")
            write_provenance(out, settings, cache, place, computed, time.monotonic() - started)
            report()
            if scorer is not None:
                sys.stdout.write(escaped(scorer.table()))
            sys.stdout.write(escaped(f"Wrote {out}\n"))
            unlock_run(out)


def _score(
    job: Job,
    task: RetrievalTask,
    skipped: Mapping[str, int],
    vectors: VectorCache,
    writer: TCoTs,
    keep: int,
    storage: Storage,
    metrics: Sequence[RankingMetric],
    out: Path,
    rank: int,
    bad: OnBad,
    modes: Modes | None = None,
    scorer: ModeScorer | None = None,
) -> SetResult | None:
    """Write the T-CoTs of a task and embed it, on all processes; rank 0 ranks the candidates."""
    left = Remaining(task, bad, skipped=Counter(skipped))
    left.hash(vectors)
    if scorer is not None:
        scorer.score(left.task)
    counts: dict[str, int] = {}
    if vectors.options.tcot in ("none", "latent"):
        left.without_tcots()  # no T-CoT is read, none is counted
    else:
        gate = writer.options.gate
        counts = left.reason(writer) if gate is None else reason_on_demand(left, writer, vectors, gate, rank)
    if modes is None:
        raw = count_raw(left.task, vectors.options, writer.place)
    else:
        raw, left.task = modes.count_raw(left.task, vectors.options), modes.apply(left.task)
    queries, candidates = left.embed(vectors)
    storage.check_length(vectors.dimension)
    if rank != 0:
        return None
    rankings = rank_task(left.task, queries, candidates, keep)
    stored = None if storage.exact else rank_stored(left.task, queries, candidates, storage, keep)
    result = set_result(
        left.task, job.group, rankings, left.hashes, job.expected_queries, raw, counts, left.skipped, metrics, stored
    )
    folder = out / QUERIES
    folder.mkdir(exist_ok=True)
    write_queries(folder / f"{file_name(job.name)}.parquet", left.task, rankings[0])
    return result
