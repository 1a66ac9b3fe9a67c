"""FSDP2 for backbones and generators: the strategy and what it shards.

FSDP2 keeps frozen parameters apart from trained ones, which LoRA needs, and also runs on CPU processes, so that tests
exercise what GPUs run.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch.strategies import ModelParallelStrategy, Strategy
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

from embedrl.distributed.loadable import Loadable
from embedrl.distributed.rank0_loading import build_once, receive
from embedrl.distributed.sharded_checkpoint import (
    is_sharded,
    load_shards,
    read_rest,
    reading,
    remove,
    replace_checkpoint,
    saved_keys,
    writing,
)
from embedrl.distributed.trained_keys import check_keys
from embedrl.errors import ConfigError


def shard_model(model: Loadable, mesh: DeviceMesh, param_dtype: torch.dtype = torch.float32) -> None:
    """Shard a built model in place: its units, then the rest.

    Args:
        model: What to shard.
        mesh: The processes to shard over, one dimension.
        param_dtype: What forward and backward passes compute in.
    """
    policy = MixedPrecisionPolicy(param_dtype=param_dtype, reduce_dtype=torch.float32)
    for unit in model.shard_units():
        fully_shard(unit, mesh=mesh, mp_policy=policy)
        # Before FSDP2's own: it reduces a unit's gradients when those of its input are there, else after all others.
        unit.register_forward_pre_hook(_require_gradient, prepend=True)
    fully_shard(model, mesh=mesh, mp_policy=policy)
    for name in model.forward_methods:
        register_fsdp_forward_method(model, name)


def _require_gradient(unit: nn.Module, args: tuple[Any, ...]) -> None:
    """Let the input of a unit have a gradient, on every rank.

    The first layer of a model with frozen embeddings gets one on ranks with a picture, whose tower is trained, and none
    on ranks without: they would reduce gradients in different orders, and deadlock.
    """
    if torch.is_grad_enabled():
        for value in args:
            if isinstance(value, Tensor) and value.is_floating_point() and not value.requires_grad:
                value.requires_grad_()


def whole_copy(model: Loadable) -> Loadable | None:
    """A copy of a sharded model that is not sharded, to export it. All ranks call together.

    Returns:
        The copy, on the CPU, on rank 0; None on the other ranks.
    """
    options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)
    trained = get_model_state_dict(model, options=options)
    if torch.distributed.get_rank():
        return None
    copy = _unbuilt(model)
    copy.build()
    copy.load_state_dict(trained, strict=False)  # what is frozen comes from the model's own checkpoint
    return copy


def _unbuilt(model: Loadable) -> Loadable:
    """A model with the same options, not built. The class of a sharded module constructs the class it was made from."""
    arguments = inspect.signature(model.__init__).parameters  # type: ignore[misc]
    options = {name: getattr(model, name) for name in arguments}
    inner = {name: _unbuilt(value) for name, value in options.items() if isinstance(value, Loadable)}
    return type(model)(**options | inner)


class FSDP2Strategy(ModelParallelStrategy):
    """Shard a model over all processes.

    In YAML: `strategy: {class_path: embedrl.distributed.FSDP2Strategy, init_args: {param_dtype: bfloat16}}` together
    with `precision: 32-true`, which keeps float32 master weights.

    Args:
        param_dtype: What forward and backward passes compute in; gradients are reduced in float32.
        save_distributed_checkpoint: Write a checkpoint as a folder to which every process adds its shards, rather than
            as one file from the first process, as other strategies do. Both resume under this strategy on any number
            of processes, and `embedrl export` reads both.
    """

    def __init__(
        self,
        param_dtype: Literal["float32", "bfloat16"] = "float32",
        save_distributed_checkpoint: bool = False,
    ) -> None:
        super().__init__("auto", 1, save_distributed_checkpoint)
        self.param_dtype = param_dtype

    def setup_environment(self) -> None:
        """Make every process a data-parallel one; Lightning's default shards nothing on a single node."""
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    def build(self, model: Loadable) -> None:
        """Build a model and shard it: the first process reads the weights, each gets its share of them.

        Does nothing when called again.

        Raises:
            EmbedRLError: The error of any process.
        """
        if isinstance(model, FSDPModule):
            return
        weights = build_once(model)
        shard_model(model, self.device_mesh["data_parallel"], getattr(torch, self.param_dtype))
        receive(model, weights, self.root_device)

    def build_frozen(self, model: Loadable) -> None:
        """Build a model that every process holds whole: the first one reads the weights, the others receive them.

        Does nothing when called again.

        Raises:
            EmbedRLError: The error of any process.
        """
        if next(model.parameters(), None) is not None:
            return
        weights = build_once(model)
        if weights:
            model.to(self.root_device)
        receive(model, weights, self.root_device)

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """The trained parameters: gathered on rank 0, or each process's shards. The frozen ones are left out."""
        whole = not self._save_distributed_checkpoint
        options = StateDictOptions(full_state_dict=whole, cpu_offload=True, ignore_frozen_params=True)
        assert self.model is not None
        return get_model_state_dict(self.model, options=options)

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        """Replace the previous checkpoint, which is kept until this one is complete."""
        path = Path(self.broadcast(filepath))
        # A file is replaced atomically, by `AtomicCheckpointIO`; a folder is put aside first.
        if not self._save_distributed_checkpoint and not path.is_dir():
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        part = path.with_name(f"{path.name}.part")
        if self.is_global_zero:
            remove(part)
        self.barrier()
        with writing(path):
            super().save_checkpoint(checkpoint, part, storage_options)
        self.barrier()
        if self.is_global_zero:
            replace_checkpoint(part, path)
        self.barrier()

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Load a file or a folder; refuse keys that do not fit instead of leaving them out.

        Raises:
            CheckpointError: If the checkpoint is not this module's.
        """
        module, path = self.lightning_module, Path(self.broadcast(checkpoint_path))
        assert module is not None
        if is_sharded(path):
            check_keys(module, saved_keys(path))
            load_shards(path, module, self.optimizers)
            return read_rest(path)
        weights_only = weights_only is not False
        with reading(path, "--ckpt_path "):
            saved = torch.load(path, mmap=True, map_location="cpu", weights_only=weights_only)
            keys = saved["state_dict"]
        check_keys(module, keys)
        del saved, keys
        return super().load_checkpoint(path, weights_only)


def build_model(model: Loadable, strategy: Strategy | None) -> None:
    """Build a model, and shard it if the strategy does.

    Raises:
        ConfigError: If the strategy is another one that shards.
        EmbedRLError: What `model.build` raises.
    """
    if isinstance(strategy, FSDP2Strategy):
        strategy.build(model)
    elif isinstance(strategy, ModelParallelStrategy):
        raise ConfigError("trainer.strategy: use class_path embedrl.distributed.FSDP2Strategy, which shards")
    else:
        model.build()


def build_frozen(model: Loadable, strategy: Strategy | None) -> None:
    """Build a model that is only used, whole on every process; under FSDP2 one process reads its weights."""
    if isinstance(strategy, FSDP2Strategy):
        strategy.build_frozen(model)
    else:
        model.build()
    model.requires_grad_(False).eval()
