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
"""Seconds between two looks at the store."""
PATIENCE = 10.0
"""Seconds that a failed process waits for the others to have heard of it."""


class FailFast(Callback):
    """Ends every process of a run when one of them fails: each says what happened to that one.

    The others would wait in their next exchange for a process that is gone, until they are killed or a timeout of many
    minutes, and say nothing of the cause. They hear of it through the key-value store over which the processes met; a
    thread in each looks there. It ends its process on the spot, as the main thread cannot be woken from an exchange.
    """

    def __init__(self) -> None:
        self._store: TCPStore | None = None
        self._over = threading.Event()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Start listening."""
        if trainer.world_size == 1:
            return
        self._rank, self._ranks = trainer.global_rank, trainer.world_size
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")  # the store outlives a run that torchrun restarts
        self._key = f"embedrl/failure/{attempt}"
        place = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        self._store = TCPStore(*place, is_master=False, timeout=timedelta(seconds=PATIENCE))
        self._over = threading.Event()
        threading.Thread(target=self._listen, args=(self._store, self._over), daemon=True).start()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Stop listening: the run has ended well."""
        self._over.set()
        self._store = None

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Tell the others, and wait until they have heard; they need this process until then."""
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
        if first != own:  # what failed here did so because another process had
            self._end(store, first)
        self._await(store, self._ranks - 1)

    def _listen(self, store: TCPStore, over: threading.Event) -> None:
        while not over.wait(POLL):
            try:
                if not store.check([self._key]):
                    continue
                message = store.get(self._key).decode()
            except (DistError, RuntimeError):
                return  # the process that kept the store has ended, and with it the run
            if not message.startswith(f"{self._rank} "):
                self._end(store, message)
            return

    def _end(self, store: TCPStore, message: str) -> None:
        failed, _, what = message.partition(" ")
        sys.stdout.flush()
        tell(f"error: {what} (in process {failed}; process {self._rank} ends with it)")
        if self._rank == 0:  # the store may be its own: the last to go
            self._await(store, self._ranks - 2)
        with suppress(DistError, RuntimeError):
            store.add(f"{self._key}/heard", 1)
        os._exit(1)

    def _await(self, store: TCPStore, others: int) -> None:
        """Wait until so many others have heard, within limits."""
        deadline = time.monotonic() + PATIENCE
        with suppress(DistError, RuntimeError):  # the process that kept the store has ended: all others had before
            while store.add(f"{self._key}/heard", 0) < others and time.monotonic() < deadline:
                time.sleep(POLL / 5)
