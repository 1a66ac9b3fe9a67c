"""Adding to an index over many machines: Ray Data runs the models in actors, and this process alone writes.

One writer is the simpler way: commits do not meet, small ones can be joined, and what comes back twice from a worker
that Ray replaced is one row, as `Store.insert` leaves out keys that are there. A worker that is lost costs the batches
that it had; this process, if it is lost, costs the batches that are embedded and not yet written.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]

from embedrl.data.on_bad import MAX_BAD, OnBadMode
from embedrl.errors import ConfigError, DataError, WorkerError, said
from embedrl.index.add import BATCH, Added, bad_items, tidy
from embedrl.index.ann import keep_fresh
from embedrl.index.index import Index
from embedrl.index.make import MadeRows, write_rows
from embedrl.index.ray_stages import COLUMN, Embeds, Parcel, RayJob, Reasons, read_parcels, unpacked
from embedrl.index.sources import read_source
from embedrl.utils.progress_bar import progress_bar

_SECONDS = 60.0  # rows that are embedded are written at the latest after these


@dataclass(frozen=True)
class RayOptions:
    """How Ray computes.

    Attributes:
        address: The cluster's, such as `auto` or `ray://head:10001`; by default the environment's RAY_ADDRESS, else a
            Ray of this machine alone, for this run.
        actors: Embedders at once.
        max_actors: Ray adds Embedders and Reasoners up to this many of each while there is room; 0: it adds none.
        reasoner_actors: Reasoners at once, if the index has one.
        cpus_per_actor: CPUs of each.
        gpus_per_actor: GPUs of each; below 1, several share one; 0: they compute on CPUs.
        commit: Rows that are written at once. Larger ones make fewer files; they are lost if this process is.
        retries: How often a batch is tried again after its worker was lost.
    """

    address: str | None = None
    actors: int = 1
    max_actors: int = 0
    reasoner_actors: int = 1
    cpus_per_actor: float = 1.0
    gpus_per_actor: float = 0.0
    commit: int = 1024
    retries: int = 3

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ConfigError: If a value is out of its range.
        """
        least = {"actors": 1, "reasoner_actors": 1, "commit": 1}
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name != "address" and not value >= (low := least.get(field.name, 0)):
                raise ConfigError(f"--ray.{field.name} is {value}: give {low} or more")
        if self.gpus_per_actor > 1 and self.gpus_per_actor % 1:
            raise ConfigError(f"--ray.gpus_per_actor is {self.gpus_per_actor}: give a whole number, or one below 1")
        if self.max_actors and self.max_actors < max(self.actors, self.reasoner_actors):
            raise ConfigError(f"--ray.max_actors is {self.max_actors}: give 0, or no fewer than actors at first")


def ray_library() -> Any:
    """Ray, with Ray Data.

    Raises:
        ConfigError: If it is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it reports to nobody
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ConfigError("--engine ray needs Ray: pip install embedrl[ray]") from error
    return ray


def add_on_ray(
    index: Index,
    source: str,
    models: dict[str, str],
    options: RayOptions,
    *,
    text_column: str | None = None,
    image_column: str | None = None,
    on_bad: OnBadMode = "skip",
    max_bad: int = MAX_BAD,
    batch: int = BATCH,
    device: str = "auto",
    progress: bool | None = None,
) -> Added:
    """Add items as `Index.add` does, with the models in actors of Ray.

    Args:
        index: The index.
        source: A folder or a table's file that every machine sees.
        models: `embedder`, and `reasoner` and `style`: names of the models, which every machine sees.
        options: How Ray computes.
        text_column: See `Index.add`.
        image_column: See `Index.add`.
        on_bad: See `Index.add`.
        max_bad: See `Index.add`.
        batch: Items of a task.
        device: Where the actors compute.
        progress: See `Index.add`.

    Raises:
        ConfigError: If an option is wrong, Ray is not installed or not there.
        DataError: As `Index.add`.
        TooManyBadError: If more than `max_bad` items are bad.
        WorkerError: If the workers of one batch are lost again and again.
    """
    ray, started = ray_library(), time.monotonic()
    bad = bad_items(index.store, on_bad, max_bad, batch)
    source = str(Path(source).expanduser().absolute())
    listed = read_source(source, text_column, image_column)  # says what is wrong before anything starts
    seen = {name: _whole(value) for name, value in models.items() if name != "style"}
    if device == "auto" and not options.gpus_per_actor:
        device = "cpu"  # Ray hides no GPU from actors that have none, and all of them would take the first
    job = RayJob(index.store.uri, source, listed.name, models | seen, text_column, image_column, batch, device)
    writer = _Writer(index, options.commit)
    with (
        _ray_running(ray, options, "reasoner" in models),
        progress_bar("index", listed.total or 0, False if listed.total is None else progress) as advance,
    ):
        try:
            for parcel in _parcels(ray, job, options):
                if parcel.error is not None:
                    raise parcel.error
                if parcel.bad and on_bad == "raise":
                    raise DataError(parcel.bad[0].message, parcel.bad[0].cause)
                for one in parcel.bad:
                    writer.done.skip(one.cause)
                bad.add(parcel.bad)
                bad.check()
                writer.done.known += parcel.known
                writer.take(parcel.made)
                advance(parcel.taken)
        finally:
            writer.flush()
    keep_fresh(index.store)
    writer.done.seconds = time.monotonic() - started
    return writer.done


class _Writer:
    """Gathers rows and writes them, many at once."""

    def __init__(self, index: Index, commit: int) -> None:
        self.store, self.commit, self.done = index.store, commit, Added()
        self._waiting: list[MadeRows] = []
        self._rows, self._written = 0, time.monotonic()

    def take(self, made: MadeRows | None) -> None:
        if made is not None:
            self._waiting.append(made)
            self._rows += made.table.num_rows
        if self._rows >= self.commit or time.monotonic() - self._written > _SECONDS:
            self.flush()

    def flush(self) -> None:
        waiting, self._waiting, self._rows, self._written = self._waiting, [], 0, time.monotonic()
        if waiting:
            self.done.embedded += sum(made.table.num_rows for made in waiting)
            self.done.added += write_rows(self.store, _joined(waiting))
            tidy(self.store, self.commit)


def _joined(parts: Sequence[MadeRows]) -> MadeRows:
    """The rows of several batches, each key once."""
    table = pa.concat_tables([made.table for made in parts])
    first: dict[str, int] = {}
    for i, key in enumerate(table["key"].to_pylist()):
        first.setdefault(key, i)
    metadata = [row for made in parts for row in made.metadata]
    names = [name for made in parts for name in made.names]
    kept = list(first.values())
    return MadeRows(table.take(kept), [metadata[i] for i in kept], [names[i] for i in kept])


def _parcels(ray: Any, job: RayJob, options: RayOptions) -> Iterator[Parcel]:
    """What the actors made, as it comes."""
    actor = {
        "batch_size": 1,
        "batch_format": "pyarrow",
        "num_cpus": options.cpus_per_actor,
        "max_restarts": -1,
        "max_task_retries": options.retries,
    }
    if options.gpus_per_actor:
        actor["num_gpus"] = options.gpus_per_actor

    def pool(least: int) -> Any:
        return ray.data.ActorPoolStrategy(min_size=least, max_size=max(options.max_actors, least))

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    # Names are read on no CPU of their own: the actors may hold all of them.
    data = ray.data.from_items([0]).map_batches(read_parcels, fn_kwargs={"job": job}, num_cpus=0, batch_size=1)
    if "reasoner" in job.models:
        data = data.map_batches(Reasons, fn_constructor_args=(job,), compute=pool(options.reasoner_actors), **actor)
    data = data.map_batches(Embeds, fn_constructor_args=(job,), compute=pool(options.actors), **actor)
    data.context.target_max_block_size = 1  # a parcel is a block, and so a task
    lost = (
        ray.exceptions.RayActorError,
        ray.exceptions.WorkerCrashedError,
        ray.exceptions.OutOfMemoryError,
        ray.exceptions.NodeDiedError,
    )
    try:
        for rows in data.iter_batches(batch_size=None, batch_format="pyarrow"):
            yield from map(unpacked, rows[COLUMN])
    except lost as error:
        raise WorkerError(
            f"workers of Ray were lost more than {options.retries} times over one batch ({said(error)}): look at their "
            "memory, or raise --ray.retries; the same command goes on"
        ) from error


@contextmanager
def _ray_running(ray: Any, options: RayOptions, reasoned: bool) -> Iterator[None]:
    """Ray, if it does not run in this process yet."""
    if ray.is_initialized():
        yield
        return
    address = options.address or os.environ.get("RAY_ADDRESS", "local")
    more = {"include_dashboard": False} if address == "local" else {}
    try:
        ray.init(address, log_to_driver=False, logging_level="ERROR", **more)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ConfigError(f"--ray.address {address}: no Ray there ({said(error)}): start it, or check it") from error
    try:
        if address == "local":  # a cluster may grow, this machine does not
            _check_room(ray.cluster_resources(), options, reasoned)
        yield
    finally:
        ray.shutdown()


def _check_room(there: dict[str, float], options: RayOptions, reasoned: bool) -> None:
    """See that the first actors have room.

    Raises:
        ConfigError: If they have not: Ray would wait for other machines.
    """
    actors = options.actors + options.reasoner_actors * reasoned
    for name, each in (("CPU", options.cpus_per_actor), ("GPU", options.gpus_per_actor)):
        if actors * each > (room := there.get(name, 0)):
            raise ConfigError(
                f"--ray.{name.lower()}s_per_actor {each:g}: {actors} actors need {actors * each:g} {name}s, and this "
                f"machine has {room:g}: give fewer, or a cluster by --ray.address"
            )


def _whole(name: str) -> str:
    """A model's name as every process reads it."""
    path = Path(name).expanduser()
    return str(path.absolute()) if path.exists() else name
