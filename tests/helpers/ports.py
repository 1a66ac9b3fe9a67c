"""Ports for the processes that a test starts."""

import fcntl
import os
import socket
import tempfile
from pathlib import Path

FIRST, LAST = 20000, 30000
"""Below what operating systems hand out to whoever asks for any port (Linux: 32768 to 60999): nobody takes one of these
between its choice and its use, except for those who ask for it by number."""

_HELD = []  # open lock files: a port is this process's until it ends


def free_port() -> int:
    """A port that no other test process gets, nor this one again, whatever runs beside."""
    folder = Path(tempfile.gettempdir()) / f"embedrl-test-ports-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    for port in range(FIRST, LAST):
        lock = (folder / str(port)).open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with socket.socket() as s:
                s.bind(("127.0.0.1", port))
        except OSError:  # another test process holds it, or a server listens there
            lock.close()
            continue
        _HELD.append(lock)
        return port
    raise RuntimeError(f"no free port from {FIRST} to {LAST}")


_LEFT = ("LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "WORLD_SIZE", "MASTER_ADDR")


def launching() -> dict[str, str]:
    """The environment of a command that starts processes itself, with a port of their own.

    Lightning leaves its ranks behind where it ran with ddp in this process: the new command would take itself for one
    of several, and wait for the others.
    """
    kept = {name: value for name, value in os.environ.items() if name not in _LEFT}
    return kept | {"MASTER_PORT": str(free_port())}
