"""Many requests to one model: bounded concurrency, progress, and a limit on failures."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from embedrl.construction.vlm import VLM
from embedrl.data.on_bad import OnBad
from embedrl.errors import DataError, EmbedRLError, EndpointError
from embedrl.utils.chat_client import NoAnswer
from embedrl.utils.progress_bar import Rate

T = TypeVar("T")


def run_requests(
    vlm: VLM,
    jobs: Iterator[T | None],
    ask: Callable[[T], Awaitable[str]],
    failed: Callable[[T, str, str], None],
    *,
    title: str,
    total: int,
    bad: OnBad,
    named: Callable[[T], tuple[str, str]],
    patience: int,
) -> Counter[str]:
    """Send one request per job, several at a time.

    An error that stops the run lets the requests under way end first, so that their answers are kept.

    Args:
        vlm: The model: provides the session and the concurrency.
        jobs: The jobs; None stands for one without a request. Iterated in a thread, so that it may read files.
        ask: Sends the request of a job and stores the answer; returns the name of the outcome, for the counts.
        failed: Called for a job without an answer, or of a bad pair: the job, the cause, the details.
        title: Label of the progress bar.
        total: Number of jobs.
        bad: What to do about a bad pair or a missing answer: stop, or call `failed`.
        named: Names of a job's data set and pair.
        patience: Consecutive requests without an answer after which the run stops.

    Returns:
        How many jobs had which outcome.

    Raises:
        EndpointError: If the endpoint does not answer; earlier answers are kept.
        DataError: If a pair is bad and `bad` says `raise`.
        TooManyBadError: If too many are.
    """
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        Rate(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[outcomes]}"),
        console=Console(stderr=True),
    )
    outcomes: Counter[str] = Counter()
    stopped: list[Exception] = []
    tasks: set[asyncio.Task[None]] = set()

    @contextmanager
    def stopping() -> Iterator[None]:
        """Keep the error of the block, so that its task group does not cancel the requests under way."""
        try:
            yield
        except Exception as error:  # noqa: BLE001  # raised once the requests have ended
            stopped.append(error)
            if len(stopped) == 1 and (others := len(tasks - {asyncio.current_task()})):
                progress.console.print(f"{title}: stops once the requests under way ({others}) have ended")

    with progress:
        bar = progress.add_task(title, total=total, outcomes="")
        without_answer = 0

        async def one(job: T) -> None:
            nonlocal without_answer
            try:
                outcome = await ask(job)
                without_answer = 0
            except NoAnswer as failure:
                without_answer += 1
                if bad.mode == "raise" or without_answer >= patience or failure.cause in _HOPELESS:
                    raise EndpointError(_given_up(vlm, failure, without_answer)) from failure
                outcome = failure.cause
                failed(job, failure.cause, failure.detail)
            except DataError as error:
                dataset, name = named(job)
                told = str(error) if f"{dataset}/{name}" in str(error) else f"{dataset}/{name}: {error}"
                outcome = bad.skip(DataError(told, error.cause), dataset, name).cause
                failed(job, outcome, told)
            outcomes[outcome] += 1
            counts = ", ".join(f"{name} {count}" for name, count in outcomes.most_common())
            progress.update(bar, advance=1, outcomes=counts)

        async def under_way(job: T) -> None:
            with stopping():
                await one(job)

        async def everything() -> None:
            gate = asyncio.Semaphore(vlm.concurrency)

            def ended(task: asyncio.Task[None]) -> None:
                tasks.discard(task)
                gate.release()

            async with vlm.session(), asyncio.TaskGroup() as group:
                with stopping():
                    while not stopped and (job := await asyncio.to_thread(next, jobs, _END)) is not _END:
                        if job is None:
                            progress.advance(bar)
                            continue
                        await gate.acquire()
                        if not stopped:
                            tasks.add(task := group.create_task(under_way(job)))  # type: ignore[arg-type]
                            task.add_done_callback(ended)

        asyncio.run(everything())
    if stopped:  # a bug is shown rather than bad input or an endpoint that is down
        raise next((error for error in stopped if not isinstance(error, EmbedRLError)), stopped[0])
    return outcomes


_END = object()
_HOPELESS = {"http_401", "http_403", "http_404", "http_405"}


def _given_up(vlm: VLM, failure: NoAnswer, number: int) -> str:
    many = f"{number} questions in a row without an answer, the last" if number > 1 else "no answer"
    return (
        f"{vlm.where}: {many}: {failure}: check that the server runs, its address, model and key, then start again: "
        "what was answered is kept"
    )
