"""One process of three fails: the others, which wait for it, end with its error, also when it owns the store."""

import os
import sys
import threading
import time
from datetime import timedelta
from types import SimpleNamespace

import pytest
import torch
from ports import free_port
from processes import PATIENCE, start

from embedrl.errors import DataError
from embedrl.training.callbacks.fail_fast import FailFast

RANKS = 3


def member(rank, port, failing):
    """One process of a run: it listens, then fails, or waits for the others as in an exchange."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    limit = timedelta(seconds=60)
    place = ("127.0.0.1", port, RANKS, rank == 0)
    store = torch.distributed.TCPStore(*place, timeout=limit, wait_for_workers=False)
    ending, trainer = FailFast(), SimpleNamespace(world_size=RANKS, global_rank=rank)
    ending.setup(trainer, None, "fit")
    store.add("here", 1)
    while store.add("here", 0) < RANKS:
        time.sleep(0.01)
    if rank not in failing:
        threading.Event().wait()  # nothing but the callback ends it
    try:
        raise DataError("pairs/7: the picture is gone")
    except DataError as error:
        ending.on_exception(trainer, None, error)
        sys.stderr.write(f"embedrl: error: {error}\n")
        sys.exit(3)


@pytest.mark.dist
@pytest.mark.parametrize("failing", [[0], [2], [1, 2]])
def test_all_end_with_the_error_of_one(failing, tmp_path):
    port = free_port()
    logs = [tmp_path / f"{rank}.log" for rank in range(RANKS)]
    processes = [start(member, (rank, port, failing), logs[rank]) for rank in range(RANKS)]
    deadline = time.monotonic() + PATIENCE
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
    codes = [process.exitcode for process in processes]  # None: it still waits
    for process in processes:
        process.kill()
    told = [log.read_text().splitlines() for log in logs]
    assert sorted(codes, key=str) == [1, 1, 3], (codes, told)  # of two that fail, one was first
    first = codes.index(3)
    assert first in failing
    assert told[first] == ["embedrl: error: pairs/7: the picture is gone"]
    for rank in {*range(RANKS)} - {first}:
        line = f"embedrl: error: pairs/7: the picture is gone (in process {first}; process {rank} ends with it)"
        assert told[rank] == [line]


def test_one_process_has_nobody_to_hear_or_to_tell(monkeypatch, capfd):
    """No store, no thread, no word: Lightning's own handling of the error is all there is."""
    monkeypatch.setattr("embedrl.training.callbacks.fail_fast.TCPStore", lambda *_, **__: pytest.fail("met a store"))
    threads = threading.enumerate()
    ending, trainer = FailFast(), SimpleNamespace(world_size=1)
    ending.setup(trainer, None, "fit")
    assert threading.enumerate() == threads
    ending.on_exception(trainer, None, DataError("gone"))
    ending.teardown(trainer, None, "fit")
    assert capfd.readouterr() == ("", "")
