"""Peak memory of a training of the Embedder or the Reasoner against its batch, at one micro-batch size.

    python benchmarks/memory.py --config configs/quickstart/embedder.yaml --batches 32 512

Each batch size trains two steps in a process of its own; the figure is that process's largest resident set. It should
stay flat: what grows is the inputs and vectors of the batch, not its activations. Other recipes:
`--config configs/quickstart/reasoner.yaml --batches 16 256`.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path


def peak_mib(config: str, batch: int, steps: int, extra: Sequence[str] = ()) -> float:
    """Largest resident set in MiB of `embedrl fit` training with this batch; nothing is validated."""
    more = ()
    if "EmbedderModule" in Path(config).read_text():
        more = (f"--data.init_args.sub_batch_size={batch}", "--model.init_args.gradient_cache=true")
    with tempfile.TemporaryDirectory() as folder:
        command = [
            *(sys.executable, "-m", "embedrl", "fit", "--config", config),
            f"--data.init_args.batch_size={batch}",
            *(f"--trainer.max_steps={steps}", "--trainer.limit_val_batches=0", f"--trainer.default_root_dir={folder}"),
            *("--trainer.enable_progress_bar=false", "--trainer.callbacks=null"),
            *more,
            *extra,
        ]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"batch {batch}: {' '.join(command)} ended with {process.returncode}")
    return usage.ru_maxrss / 1024


def main() -> None:
    """Measure every batch size and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/quickstart/embedder.yaml")
    parser.add_argument("--batches", type=int, nargs="+", default=[32, 512])
    parser.add_argument("--steps", type=int, default=2)
    options, extra = parser.parse_known_args()
    first = None
    print(f"{'batch':>7}{'peak MiB':>10}{'ratio':>8}")
    for batch in options.batches:
        peak = peak_mib(options.config, batch, options.steps, extra)
        first = first or peak
        print(f"{batch:>7}{peak:>10.0f}{peak / first:>8.3f}", flush=True)


if __name__ == "__main__":
    main()
