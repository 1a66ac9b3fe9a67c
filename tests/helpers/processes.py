"""Processes of their own for a test: a script once per rank, or a function.

They come from a fork server that has imported the heavy packages once: each is a fresh process, without the half minute
of imports.
"""

import faulthandler
import multiprocessing
import os
import runpy
import sys
import time
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from ports import free_port

WORLD = 2
PATIENCE = 240
"""Seconds after which a process counts as stuck."""

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["embedrl.commands.fit", "embedrl.training.embedder", "embedrl.rl.module"])


def start(function, args: tuple, log: Path) -> ForkServerProcess:
    """Run a function in a process with this one's environment, its output in a file."""
    process = CONTEXT.Process(target=_call, args=(function, args, str(log), dict(os.environ)))
    process.start()
    return process


def command(words: list[str], log: Path) -> ForkServerProcess:
    """Run the command line in a process, its output in a file; the process ends with its exit code."""
    return start(_command, (words,), log)


def _command(words: list[str]) -> None:
    from embedrl.cli import main

    sys.exit(main(words))


def _call(function, args: tuple, log: str, environment: dict[str, str]) -> None:
    file = Path(log).open("a", buffering=1)  # noqa: SIM115 (open to the end: errors are told last)
    sys.stdout = sys.stderr = file
    faulthandler.dump_traceback_later(PATIENCE - 10, file=file)  # where it hangs, if it does
    os.environ.clear()  # the fork server's, which may have been started before a test changed it
    os.environ.update(environment)
    import torch

    torch.set_num_threads(1)
    multiprocessing.set_start_method("fork", force=True)  # loader workers as in a run started by hand
    function(*args)


def launch(script: str | Path, *args: object, log: Path) -> list[ForkServerProcess]:
    """Start a script, or the one of this name in this folder, once per rank, as torchrun would; `log` is a folder."""
    port = free_port()
    path = script if isinstance(script, Path) else Path(__file__).with_name(f"{script}.py")
    words = [str(path), *map(str, args)]
    return [start(_rank, (rank, port, words), log / f"{path.stem}.{rank}.log") for rank in range(WORLD)]


def _rank(rank: int, port: int, words: list[str]) -> None:
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(WORLD),
        "LOCAL_WORLD_SIZE": str(WORLD),
        "GROUP_RANK": "0",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_RUN_ID": "test",
    }
    sys.argv = words
    sys.path.insert(0, str(Path(words[0]).parent))
    runpy.run_path(words[0], run_name="__main__")


def finish(processes: list[ForkServerProcess], log: Path) -> None:
    """Wait for all ranks; none outlives the test, nor waits for one that has failed."""
    deadline = time.monotonic() + PATIENCE
    try:
        while any(p.is_alive() for p in processes) and not any(p.exitcode for p in processes):
            if time.monotonic() > deadline:
                break
            time.sleep(0.05)
        for p in processes:
            p.join(5 if any(p.exitcode for p in processes) else 0)
    finally:
        codes = [p.exitcode for p in processes]
        for p in processes:
            p.kill()
    told = "\n".join(path.read_text()[-4000:] for path in sorted(log.glob("*.log")))
    assert codes == [0] * len(codes), f"{codes}\n{told}"


def weights(path: Path) -> dict:
    """The weights in a file that a rank wrote: a checkpoint's, or those themselves."""
    import torch

    saved = torch.load(path, weights_only=True)
    return saved.get("state_dict", saved)
