"""When one process of a run fails, all of them end, with its error."""

from __future__ import annotations

import os
import sys
import threading
import time
from contextlib import suppress
from datetime import timedelta

from lightning.pytorch import Callback, LightningModule, Trainer
from torch.distributed import DistError, TCPStore  # type: ignore[attr-defined]

from embedrl.errors import EmbedRLError
from embedrl.utils.console import tell

POLL = 0.5
"""Seconds between two reads of the store."""
PATIENCE = 10.0
"""Seconds that a failed process waits for the others to acknowledge the failure."""


class FailFast(Callback):
    """Ends every process of a run when one of them fails: each prints the error of that one.

    Otherwise the others would wait for the failed process in their next collective, until they are killed or a timeout
    of many minutes expires, without any message on the cause. The failure is written to the key-value store of the
    process group's rendezvous, which a thread in each process polls. The thread ends its process at once, because the
    main thread cannot be interrupted in a collective.
    """

    def __init__(self) -> None:
        self._store: TCPStore | None = None
        self._over: threading.Event | None = None  # made when a run starts: a lock cannot be pickled

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Start to watch the store."""
        if trainer.world_size == 1:
            return
        self._rank, self._ranks = trainer.global_rank, trainer.world_size
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")  # the store outlives a run that torchrun restarts
        self._key = f"embedrl/failure/{attempt}"
        place = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        self._store = TCPStore(*place, is_master=False, timeout=timedelta(seconds=PATIENCE))
        self._over = threading.Event()
        threading.Thread(target=self._watch, args=(self._store, self._over), daemon=True).start()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Stop watching: the run has ended without an error."""
        if self._over is not None:
            self._over.set()
        self._store = None

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Announce the failure, and wait until the others have read it; they need this process until then."""
        store = self._store
        if store is None or not isinstance(exception, Exception):  # an interrupt reaches every process by itself
            return
        ours = isinstance(exception, EmbedRLError)
        what = str(exception) if ours else f"{type(exception).__name__}: {exception}"
        own = f"{self._rank} {' '.join(what.split())}"
        try:
            first = store.compare_set(self._key, "", own).decode()
        except (DistError, RuntimeError) as error:
            tell(f"process {self._rank} cannot tell the others that it failed ({error})")
            return
        if first != own:  # this failure is a consequence of another process's
            self._end(store, first)
        self._await(store, self._ranks - 1)

    def _watch(self, store: TCPStore, over: threading.Event) -> None:
        while not over.wait(POLL):
            try:
                if not store.check([self._key]):
                    continue
                message = store.get(self._key).decode()
            except (DistError, RuntimeError):
                return  # the process that hosts the store has ended, and with it the run
            if not message.startswith(f"{self._rank} "):
                self._end(store, message)
            return

    def _end(self, store: TCPStore, message: str) -> None:
        failed, _, what = message.partition(" ")
        sys.stdout.flush()
        tell(f"error: {what} (in process {failed}; process {self._rank} ends with it)")
        if self._rank == 0:  # it may host the store: it ends last
            self._await(store, self._ranks - 2)
        with suppress(DistError, RuntimeError):
            store.add(f"{self._key}/notified", 1)
        os._exit(1)

    def _await(self, store: TCPStore, others: int) -> None:
        """Wait until `others` processes have read the failure, at most `PATIENCE` seconds."""
        deadline = time.monotonic() + PATIENCE
        with suppress(DistError, RuntimeError):  # the host of the store ends last: no other process is left
            while store.add(f"{self._key}/notified", 0) < others and time.monotonic() < deadline:
                time.sleep(POLL / 5)
