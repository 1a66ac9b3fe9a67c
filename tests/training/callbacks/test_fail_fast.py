"""Of three processes one fails: the others, who wait for it, hear of it; also when it keeps the store they hear by."""

import os
import socket
import sys
import time
from datetime import timedelta
from types import SimpleNamespace

import pytest
import torch
from processes import start

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
        time.sleep(60)
    try:
        raise DataError("pairs/7: the picture is gone")
    except DataError as error:
        ending.on_exception(trainer, None, error)
        sys.stderr.write(f"embedrl: error: {error}\n")
        sys.exit(3)


@pytest.mark.dist
@pytest.mark.parametrize("failing", [[0], [2], [1, 2]])
def test_all_end_with_the_error_of_one(failing, tmp_path):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    logs = [tmp_path / f"{rank}.log" for rank in range(RANKS)]
    began = time.monotonic()
    processes = [start(member, (rank, port, failing), logs[rank]) for rank in range(RANKS)]
    for process in processes:
        process.join(45)
    took, codes = time.monotonic() - began, [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    told = [log.read_text().splitlines() for log in logs]
    assert sorted(codes) == [1, 1, 3], (codes, told)  # of two that fail, one was first
    first = codes.index(3)
    assert first in failing
    assert told[first] == ["embedrl: error: pairs/7: the picture is gone"]
    for rank in {*range(RANKS)} - {first}:
        line = f"embedrl: error: pairs/7: the picture is gone (in process {first}; process {rank} ends with it)"
        assert told[rank] == [line]
    assert took < 45


def test_one_process_listens_to_nobody():
    ending = FailFast()
    ending.setup(SimpleNamespace(world_size=1), None, "fit")
    ending.on_exception(SimpleNamespace(world_size=1), None, DataError("gone"))
    ending.teardown(SimpleNamespace(world_size=1), None, "fit")
