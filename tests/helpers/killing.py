"""A callback that kills its own process in the middle of a phase of the EG-RL step, once."""

import os
import signal
from pathlib import Path

from lightning import Callback


class KillDuring(Callback):
    """SIGKILL in a phase of the step that begins at `step`; not again once `marker` is there.

    Args:
        phase: `rollout` (a group is written, another is not), `reward` (the judge has answered, nobody knows yet) or
            `policy` (the optimizer has stepped in the first inner epoch, and is about to step again).
        step: Optimizer steps that are done when the step begins.
        marker: The file that says that it has happened.
    """

    def __init__(self, phase: str, step: int, marker: str) -> None:
        self.phase, self.step, self.marker = phase, step, Path(marker)

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step != self.step or self.marker.exists():
            return
        judges = [row.reward.judge for row in pl_module.rewards if hasattr(row.reward, "judge")]
        owner, name, call = {
            "rollout": (pl_module.generator, "sample", 2),
            "reward": (judges[0], "choose", 1),
            "policy": (pl_module, "clip_gradients", 2),
        }[self.phase]
        function = getattr(owner, name)
        calls = []

        def deadly(*args, **kwargs):
            result = function(*args, **kwargs)
            calls.append(name)
            if len(calls) == call:
                self.marker.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        setattr(owner, name, deadly)


class KillAt(Callback):
    """SIGKILL after a number of optimizer steps; not again once `marker` is there."""

    def __init__(self, step: int, marker: str) -> None:
        self.step, self.marker = step, Path(marker)

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == self.step and not self.marker.exists():
            self.marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
