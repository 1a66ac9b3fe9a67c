"""The Reasoner that a checkpoint's family asks for, by its path alone."""

from __future__ import annotations

from typing import Literal

from embedrl.models.adapters import adapter_base
from embedrl.models.policy_generator import PolicyGenerator


def is_qwen3_vl(path: str) -> bool:
    """Whether a checkpoint is a Qwen3-VL's, or ships with the package.

    Args:
        path: A checkpoint folder, the folder of a LoRA adapter, a Hub name or `embedrl:...`.

    Raises:
        CheckpointError: If the checkpoint's configuration cannot be read, or it is no vision-language model's.
    """
    from embedrl.models.qwen_vl.loading import SHIPPED
    from embedrl.models.qwen_vl.loading import TINY as TINY_QWEN
    from embedrl.models.vlm.loading import load_config

    while adapted := adapter_base(path):
        path = adapted
    return path in (TINY_QWEN, *SHIPPED) or load_config(path).model_type == "qwen3_vl"


def reasoner(path: str, dtype: Literal["float32", "bfloat16", "auto"] = "float32") -> PolicyGenerator:
    """A `QwenVLReasoner` for a Qwen3-VL and what ships with the package, else a `VLMReasoner`; not built.

    Args:
        path: A checkpoint folder, the folder of a LoRA adapter, a Hub name or `embedrl:...`.
        dtype: Type of the weights.

    Raises:
        CheckpointError: If the checkpoint's configuration cannot be read, or it is no vision-language model's.
    """
    from embedrl.models.qwen_vl.reasoner import QwenVLReasoner
    from embedrl.models.vlm.reasoner import VLMReasoner

    return QwenVLReasoner(path, dtype=dtype) if is_qwen3_vl(path) else VLMReasoner(path, dtype=dtype)
