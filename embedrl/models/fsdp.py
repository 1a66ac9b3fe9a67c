"""FSDP2 for backbones: the strategy and what it shards.

FSDP2 keeps frozen parameters apart from trained ones, which LoRA needs, and also runs on CPU processes, so that tests
exercise what GPUs run.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

from embedrl.models.backbone import Backbone
from embedrl.models.checkpoint import check_keys


def shard_backbone(backbone: Backbone, mesh: DeviceMesh, param_dtype: torch.dtype = torch.float32) -> None:
    """Shard a built backbone in place: its units, then the rest.

    Args:
        backbone: What to shard.
        mesh: The processes to shard over, one dimension.
        param_dtype: What forward and backward passes compute in.
    """
    policy = MixedPrecisionPolicy(param_dtype=param_dtype, reduce_dtype=torch.float32)
    for unit in backbone.shard_units():
        fully_shard(unit, mesh=mesh, mp_policy=policy)
    fully_shard(backbone, mesh=mesh, mp_policy=policy)
    register_fsdp_forward_method(backbone, "encode")


class FSDP2Strategy(ModelParallelStrategy):
    """Shard a backbone over all processes; checkpoints are single files, as with any other strategy.

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

    def shard(self, backbone: Backbone) -> None:
        """Shard a built backbone in place; does nothing when called again."""
        if isinstance(backbone, FSDPModule):
            return
        shard_backbone(backbone, self.device_mesh["data_parallel"], getattr(torch, self.param_dtype))

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
