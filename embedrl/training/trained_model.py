"""What was trained, wherever it lies: one reading of `--checkpoint` for every command.

| given | is |
|---|---|
| a `.ckpt`: a file, or a folder of shards | the model of that checkpoint |
| a run's folder, or one with several runs in it | the model of the newest `last.ckpt` below it |
| a folder that `embedrl export` wrote, adapters included | that model |
| any other folder of a vision-language model, a Hub name, `embedrl:...` | the model that the command needs |
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from lightning.pytorch.cli import instantiate_module

import embedrl
from embedrl.distributed.sharded_checkpoint import is_sharded, read_rest, read_weights, reading
from embedrl.errors import CheckpointError, ConfigError
from embedrl.inference.reranker import Reranker
from embedrl.inference.thinking_reranker import ThinkingReranker
from embedrl.models.adapters import CONFIG_FILE as ADAPTER
from embedrl.models.backbone import Backbone
from embedrl.models.exported import MODEL_FILES, exported_class, load_exported
from embedrl.models.generator import Generator
from embedrl.models.policy_generator import PolicyGenerator
from embedrl.models.qwen_vl.backbone import QwenVLBackbone
from embedrl.models.qwen_vl.reasoner import QwenVLReasoner
from embedrl.tcot.prompts import Style
from embedrl.training.base import TrainingModule
from embedrl.training.checkpoints import check_classes
from embedrl.training.run_dir import find_checkpoint

Dtype = Literal["float32", "bfloat16", "auto"]

# The first of these arguments that a checkpoint has identifies its module, by its public name, as rooms above have it.
_MODULES = {
    "embedder": "EGRLModule",
    "rewards": "VerifiableRLModule",
    "generator": "ReasonerModule",
    "losses": "UnifiedEmbedderModule",
    "backbone": "EmbedderModule",
}


def load_embedder(checkpoint: str, dtype: Dtype = "float32") -> Backbone:
    """An Embedder with its weights, on the CPU, in evaluation mode.

    Args:
        checkpoint: See the table above.
        dtype: Type of the weights of a vision-language model; a `.ckpt` keeps its own.

    Raises:
        CheckpointError: If it cannot be read, or is no Embedder's.
    """
    return _load_kind(checkpoint, Backbone, QwenVLBackbone, dtype)  # type: ignore[type-abstract]


def load_reasoner(checkpoint: str, dtype: Dtype = "float32") -> Generator:
    """A Reasoner with its weights, on the CPU, in evaluation mode.

    Args:
        checkpoint: See the table above.
        dtype: Type of the weights of a vision-language model; a `.ckpt` keeps its own.

    Raises:
        CheckpointError: If it cannot be read, or is no Reasoner's.
    """
    return _load_kind(checkpoint, Generator, QwenVLReasoner, dtype)  # type: ignore[type-abstract]


def check_think(think: int, reranker: str | None) -> None:
    """Check `--think` before anything is loaded.

    Args:
        think: Longest thought in tokens; 0: none.
        reranker: The model that is to think; None or empty if none is named.

    Raises:
        ConfigError: If `think` is below 0, or there is no model to think.
    """
    if think < 0:
        raise ConfigError(f"--think is {think}: give the longest thought in tokens, or 0 for none")
    if think and not reranker:
        raise ConfigError(f"--think is {think}, but no model is given that thinks: give --reranker")


def load_reranker(checkpoint: str, style: Style = "full", think: int = 0) -> Reranker:
    """A reranker with its weights, on the CPU; `Reranker.build` moves it.

    Args:
        checkpoint: See the table above: what training on `embedrl.data.RerankLessons` left; with `think`, on
            `embedrl.data.RerankThoughts`.
        style: Style of the question: that of the lessons.
        think: Longest thought in tokens; 0: the model says yes or no at once.

    Raises:
        CheckpointError: If it cannot be read, or is no model that can rerank.
        ConfigError: If `think` is below 0.
    """
    check_think(think, checkpoint)
    try:
        generator = load_reasoner(checkpoint)
    except CheckpointError as error:
        raise CheckpointError(str(error).replace("--checkpoint", "--reranker", 1)) from error
    if not isinstance(generator, PolicyGenerator):
        raise CheckpointError(f"--reranker {checkpoint}: it does not say how likely its replies are: it cannot rerank")
    if think:
        return ThinkingReranker(generator, style=style, max_new_tokens=think)
    return Reranker(generator, style=style)


def load_trained(checkpoint: str) -> Backbone | Generator:
    """An Embedder or a Reasoner with its weights, on the CPU, in evaluation mode.

    Args:
        checkpoint: See the table above.

    Raises:
        CheckpointError: If it cannot be read, or a folder does not say which of both it is.
    """
    model: Backbone | Generator = _load(checkpoint, None, "float32")
    return model


_Kind = TypeVar("_Kind", Backbone, Generator)
_OTHERS = {
    Backbone: "a Reasoner's, which gives no vectors; give an Embedder's",
    Generator: "an Embedder's, which writes nothing; give a Reasoner's",
}


def _load_kind(
    checkpoint: str, kind: type[_Kind], default: type[QwenVLBackbone | QwenVLReasoner], dtype: Dtype
) -> _Kind:
    """The model, which must be of a kind."""
    model = _load(checkpoint, default, dtype)
    if not isinstance(model, kind):
        raise CheckpointError(f"--checkpoint {checkpoint}: {_OTHERS[kind]}")
    return model


def locate(checkpoint: str) -> Path | None:
    """The training checkpoint that is meant: a file, or a folder of shards; None for anything that is a model's folder.

    Args:
        checkpoint: See the table above.

    Raises:
        CheckpointError: If it is a folder with neither a model nor a run, or a missing `.ckpt`.
    """
    path = Path(checkpoint).expanduser()
    if path.is_dir():
        if is_sharded(path):
            return path
        if any((path / name).is_file() for name in MODEL_FILES):
            return None
        try:
            return Path(find_checkpoint("last", path))
        except CheckpointError as error:
            raise CheckpointError(
                f"--checkpoint {checkpoint}: neither a model's folder (no config.json) nor a run's (no last.ckpt)"
            ) from error
    return path if path.is_file() or path.suffix == ".ckpt" else None


def _load(checkpoint: str, default: type[QwenVLBackbone | QwenVLReasoner] | None, dtype: Dtype) -> Any:
    """The model, whatever its kind; a folder that does not say its kind is read as `default`."""
    if (file := locate(checkpoint)) is not None:
        return load_module(file).trained_model
    try:
        cls = exported_class(checkpoint) or default
        if cls is None and not (checkpoint.startswith("embedrl:") or Path(checkpoint).expanduser().exists()):
            raise CheckpointError(f"{checkpoint}: no such file or folder; give what `embedrl fit` or `export` wrote")
        if cls is None:
            what = "an adapter" if (Path(checkpoint).expanduser() / ADAPTER).is_file() else "a model"
            raise CheckpointError(
                f"{checkpoint}: {what} that does not say whether it is an Embedder or a Reasoner (it has no "
                "embedrl_config.json); give what `embedrl fit` or `embedrl export` wrote"
            )
        return load_exported(cls, checkpoint, dtype)
    except CheckpointError as error:
        raise CheckpointError(f"--checkpoint {error}") from error


def training_figures(checkpoint: Path) -> dict[str, float | int]:
    """What a training checkpoint says of its training: its steps; the figure that made it the best, if it is that one.

    Args:
        checkpoint: A checkpoint that `load_module` reads.
    """
    with reading(checkpoint, "--checkpoint "):
        saved = _read(checkpoint)
    figures: dict[str, float | int] = {"optimizer steps": int(saved.get("global_step", 0))}
    for state in (saved.get("callbacks") or {}).values():
        best = state.get("best_model_score") if isinstance(state, dict) and state.get("monitor") else None
        if best is not None and checkpoint.name == "best.ckpt":
            figures[str(state["monitor"])] = round(float(best), 4)
    return figures


def load_module(checkpoint: Path) -> TrainingModule:
    """The module of a training checkpoint, on the CPU, in evaluation mode, as it was configured.

    Args:
        checkpoint: The file or the folder that `embedrl fit` wrote.

    Raises:
        CheckpointError: If it is missing, broken, or none of embedrl's.
    """
    if not checkpoint.exists():
        raise CheckpointError(f"--checkpoint {checkpoint}: no such file; give the .ckpt that `embedrl fit` wrote")
    if not is_sharded(checkpoint) and not zipfile.is_zipfile(checkpoint):
        raise CheckpointError(f"--checkpoint {checkpoint}: not a checkpoint, or cut short; give another one")
    with reading(checkpoint, "--checkpoint "):
        saved = _read(checkpoint)
        arguments = saved["hyper_parameters"]
        check_classes(arguments, f"--checkpoint {checkpoint}")
        name = next((module for argument, module in _MODULES.items() if argument in arguments), None)
        if name is None:
            raise CheckpointError(f"--checkpoint {checkpoint}: neither an Embedder's nor a Reasoner's checkpoint")
        kind: type[TrainingModule] = getattr(embedrl, name)
        if is_sharded(checkpoint):
            module: TrainingModule = instantiate_module(
                kind, {k: v for k, v in arguments.items() if k != "_instantiator"}
            )
            module.configure_model()
            module.load_state_dict(read_weights(checkpoint))
        else:
            module = kind.load_from_checkpoint(checkpoint, map_location="cpu", weights_only=True)
    return module.eval()


def _read(checkpoint: Path) -> dict[str, Any]:
    """A checkpoint's content; of shards, what is not in them."""
    if is_sharded(checkpoint):
        return read_rest(checkpoint)
    saved: dict[str, Any] = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
    return saved
