"""How the scores of retrieval tasks are logged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from lightning import LightningModule

from embedrl.metrics.task_scorer import TaskResult
from embedrl.training.progress import curve_step
from embedrl.utils.tensorboard import tensorboard_writer


def log_results(module: LightningModule, stage: str, results: Sequence[TaskResult]) -> None:
    """Log `<stage>/<task>/<metric>` such as `val/vqa/hit@1`, `delta_s`, and each one's mean over the tasks.

    `<stage>/<task>/left_out` is the number of its queries and candidates that were left out as bad, if any were.
    To TensorBoard also goes the histogram of Δs over the queries of all tasks, so that two validations can be compared.

    Args:
        module: The module whose validation or test it is.
        stage: `val` or `test`.
        results: The scored tasks, all by the same metrics; may be empty.
    """
    for name in results[0].metrics if results else ():
        _log(module, stage, name, {result.task.name: result.metrics[name] for result in results})
    module.log_dict({f"{stage}/{r.task.name}/left_out": float(r.left_out) for r in results if r.left_out})
    gaps = {result.task.name: result.delta_s for result in results}
    gaps = {task: values for task, values in gaps.items() if len(values)}
    _log(module, stage, "delta_s", {task: values.mean().item() for task, values in gaps.items()})
    writer = tensorboard_writer(module.trainer)
    if writer is not None and gaps:
        step = curve_step(module.global_step, module)
        writer.add_histogram(f"{stage}/delta_s", torch.cat(list(gaps.values())), step)


def _log(module: LightningModule, stage: str, name: str, values: Mapping[str, float]) -> None:
    """Log one figure of every task, and their mean."""
    module.log_dict({f"{stage}/{task}/{name}": value for task, value in values.items()}, sync_dist=True)
    if values:
        mean = sum(values.values()) / len(values)
        module.log(f"{stage}/{name}", mean, prog_bar=name == "hit@1", sync_dist=True)
