"""FSDP2 for backbones and generators: the strategy and what it shards.

FSDP2 keeps frozen parameters apart from trained ones, which LoRA needs, and also runs on CPU processes, so that tests
exercise what GPUs run.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, Literal

import torch
from lightning.pytorch.strategies import ModelParallelStrategy, Strategy
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

from embedrl.errors import ConfigError
from embedrl.models.backbone import Backbone
from embedrl.models.checkpoint import check_keys

if TYPE_CHECKING:
    from embedrl.models.generator import Generator


def shard_model(model: Backbone | Generator, mesh: DeviceMesh, param_dtype: torch.dtype = torch.float32) -> None:
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
    on ranks without: they would reduce gradients in different orders, and wait for each other for ever.
    """
    if torch.is_grad_enabled():
        for value in args:
            if isinstance(value, Tensor) and value.is_floating_point() and not value.requires_grad:
                value.requires_grad_()


def whole_copy(model: Backbone | Generator) -> Backbone | Generator | None:
    """A copy of a sharded model that is not sharded, to export it. All ranks call together.

    Returns:
        The copy, on the CPU, on rank 0; None on the other ranks.
    """
    options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)
    trained = get_model_state_dict(model, options=options)
    if torch.distributed.get_rank():
        return None
    # The class of a sharded module constructs the class it was made from.
    arguments = inspect.signature(model.__init__).parameters  # type: ignore[misc]
    copy: Backbone | Generator = type(model)(**{name: getattr(model, name) for name in arguments})
    copy.build()
    copy.load_state_dict(trained, strict=False)  # what is frozen comes from the model's own checkpoint
    return copy


class FSDP2Strategy(ModelParallelStrategy):
    """Shard a model over all processes; checkpoints are single files, as with any other strategy.

    In YAML: `strategy: {class_path: embedrl.models.fsdp.FSDP2Strategy, init_args: {param_dtype: bfloat16}}` together
    with `precision: 32-true`, which keeps float32 master weights.

    Args:
        param_dtype: What forward and backward passes compute in; gradients are reduced in float32.
    """

    def __init__(self, param_dtype: Literal["float32", "bfloat16"] = "float32") -> None:
        super().__init__("auto", 1, save_distributed_checkpoint=False)
        self.param_dtype = param_dtype

    def setup_environment(self) -> None:
        """Make every process a data-parallel one; Lightning's default shards nothing on a single node."""
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    def shard(self, model: Backbone | Generator) -> None:
        """Shard a built model in place; does nothing when called again."""
        if isinstance(model, FSDPModule):
            return
        shard_model(model, self.device_mesh["data_parallel"], getattr(torch, self.param_dtype))

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """The trained parameters, gathered on rank 0; the frozen ones are never gathered."""
        options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)
        assert self.model is not None
        return get_model_state_dict(self.model, options=options)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Load as Lightning does, but refuse keys that do not fit instead of leaving them out."""
        assert self.lightning_module is not None
        saved = torch.load(checkpoint_path, mmap=True, map_location="cpu", weights_only=weights_only)
        check_keys(self.lightning_module, saved["state_dict"])
        del saved
        return super().load_checkpoint(checkpoint_path, weights_only)


def shard_if_asked(model: Backbone | Generator, strategy: Strategy | None) -> None:
    """Shard a built model if the strategy does.

    Raises:
        ConfigError: If the strategy is another one that shards.
    """
    if isinstance(strategy, FSDP2Strategy):
        strategy.shard(model)
    elif isinstance(strategy, ModelParallelStrategy):
        raise ConfigError("trainer.strategy: use class_path embedrl.models.fsdp.FSDP2Strategy, which shards")
