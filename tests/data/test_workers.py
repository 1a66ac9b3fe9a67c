"""Data workers that lack something, end or hang: one line with the cure, and no waiting."""

import errno
import multiprocessing
import os
import resource
import signal
import time
from pathlib import Path

import pytest
import torch

from embedrl import cli
from embedrl.data import workers
from embedrl.data.loader import Loader
from embedrl.errors import DataError, WorkerError
from embedrl.utils.worker_errors import NO_FILES, worker_error

FORK = multiprocessing.get_context("fork")
KEPT = []


class Unsendable:
    """A batch that cannot be handed over."""

    def __init__(self, error):
        self.error = error

    def __reduce__(self):
        raise self.error


class Data:
    def __init__(self, make):
        self.make = make

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return self.make(index)


def load(make, **options):
    options = {"num_workers": 1, "multiprocessing_context": "fork", **options}
    return Loader(Data(make), batch_size=1, collate_fn=list, generator=torch.Generator(), **options)


def _raise(error):
    raise error


FULL = "unable to allocate shared memory(shm) for file </torch_5544_3905091264_0>: No space left on device (28)"
FEW = "unable to open shared memory object </torch_6243_3643751737_5> in read-write mode: Too many open files (24)"
FAILURES = [
    (
        lambda i: Unsendable(RuntimeError(FULL)),
        "no shared memory left .*/dev/shm has .*--shm-size.*--data.num_workers 0",
    ),
    (
        lambda i: Unsendable(RuntimeError(FEW)),
        r"open files than the limit of \d+ .*`ulimit -n 4096`.*--data.num_workers 0",
    ),
    (lambda i: Unsendable(OSError(errno.EMFILE, "Too many open files")), "need more open files"),
    (lambda i: Unsendable(OSError(errno.ENOSPC, "No space left on device")), "no shared memory left"),
    (lambda i: os.kill(os.getpid(), signal.SIGBUS), "no shared memory left"),
    (lambda i: os.kill(os.getpid(), signal.SIGKILL), "a data worker was killed, often .* memory: take fewer workers"),
    (lambda i: os._exit(3), "a data worker exited unexpectedly.*: see above, or load in the training process"),
    (lambda i: os._exit(NO_FILES), "need more open files"),
    (lambda i: _raise(OSError(errno.EMFILE, "Too many open files", "x.png")), "need more open files"),
]


@pytest.mark.parametrize(("make", "message"), FAILURES, ids=range(len(FAILURES)))
@pytest.mark.parametrize("persistent", [False, True])
def test_workers_that_fail_end_in_one_line(make, message, persistent):
    loader, began = load(make, persistent_workers=persistent), time.monotonic()
    with pytest.raises(WorkerError, match=message) as raised:
        list(loader)
    assert "\n" not in str(raised.value)
    assert time.monotonic() - began < 20
    assert not multiprocessing.active_children()


def test_a_batch_that_cannot_be_sent_for_another_reason_is_told_too():
    with pytest.raises(TypeError, match="no pickle of it"):
        list(load(lambda i: Unsendable(TypeError("no pickle of it"))))


def test_an_error_of_the_data_stays_what_it_is():
    with pytest.raises(DataError, match=r"^row 0 is broken$"):
        list(load(lambda i: _raise(DataError(f"row {i} is broken"))))
    with pytest.raises(RuntimeError, match="shared memory"):  # such as a kernel's: no worker has to do with it
        list(
            load(
                lambda i: _raise(RuntimeError("out of resource: shared memory, Required: 9")),
                num_workers=0,
                multiprocessing_context=None,
            )
        )
    assert [batch for [batch] in load(lambda i: i)] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("full", "patience", "message"),
    [(0.2, 1e9, "no shared memory left"), (1e9, 120.0, "no batch for 2 minutes: a data worker hangs")],
)
def test_workers_that_hang_end_in_one_line(full, patience, message, monkeypatch):
    monkeypatch.setattr(workers, "FULL", full)
    monkeypatch.setattr(workers, "PATIENCE", patience)
    monkeypatch.setattr(workers, "is_full", lambda: True)
    tick = 0.1 if full < 1 else 0.01
    wait = workers._MultiProcessingDataLoaderIter._try_get_data
    monkeypatch.setattr(workers._MultiProcessingDataLoaderIter, "_try_get_data", lambda self, _: wait(self, tick))
    monkeypatch.setattr(workers.Workers._try_get_data, "__defaults__", (tick if full < 1 else 30.0,))
    with pytest.raises(WorkerError, match=message):
        list(load(lambda i: time.sleep(0.5)))


def test_a_slow_worker_is_waited_for(monkeypatch):
    monkeypatch.setattr(workers, "FULL", 0.0)
    monkeypatch.setattr(workers, "is_full", lambda: False)
    assert len(list(load(lambda i: time.sleep(0.05)))) == 4


def _with_few_files(answers):
    few = len(list(Path("/proc/self/fd").iterdir())) + 12
    resource.setrlimit(resource.RLIMIT_NOFILE, (few, few))
    try:
        list(Loader(Data(lambda i: [torch.zeros(9) for _ in range(30)]), num_workers=2, collate_fn=list))
    except WorkerError as error:
        answers.put(str(error))


def _forget(answers):
    KEPT.append(iter(load(lambda i: i)))
    answers.put(next(KEPT[0]))


@pytest.mark.parametrize(("function", "answer"), [(_with_few_files, "need more open files"), (_forget, "0")])
def test_a_process_with_workers_ends(function, answer):
    """With too few files for its workers; or while an iterator is alive, as after an error elsewhere."""
    answers = FORK.Queue()
    process = FORK.Process(target=function, args=(answers,))
    process.start()
    assert answer in str(answers.get(timeout=60))
    process.join(30)
    stuck = process.is_alive()
    process.kill()
    assert not stuck


@pytest.mark.parametrize(
    ("error", "code"),
    [(RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "), 1), (RuntimeError("a bug"), None)],
)
def test_the_command_line_knows_what_torch_raises_between_two_batches(error, code, monkeypatch, capsys):
    monkeypatch.setattr(cli, "_dispatch", lambda words: _raise(error))
    if code is None:
        with pytest.raises(RuntimeError, match="a bug"):
            cli.main(["fit"])
    else:
        assert cli.main(["fit"]) == code
        assert "embedrl: error: a data worker was killed" in capsys.readouterr().err


@pytest.mark.parametrize(
    "error", [None, ValueError("shared memory object"), RuntimeError("CUDA out of memory"), OSError(2, "x")]
)
def test_other_errors_are_left_alone(error):
    assert worker_error(error) is None
