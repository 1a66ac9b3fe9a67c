"""Pictures as inputs of a model: by its own processor, or by its family's image processor where it is not at hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import AutoImageProcessor, AutoVideoProcessor
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING
from transformers.models.auto.video_processing_auto import VIDEO_PROCESSOR_MAPPING

from embedrl.models.qwen_vl.loading import is_local
from embedrl.planning.shapes import table_row

_EMB = {"role": "assistant", "content": [{"type": "text", "text": "<emb>"}]}


def read_inputs(model: Any, kind: str, images: Sequence[Image.Image]) -> tuple[dict[str, Tensor], int | None]:
    """Read a picture or a video.

    Args:
        model: The model that reads it.
        kind: image, evidence or video.
        images: The picture, or the frames.

    Returns:
        The inputs, and how many tokens it adds to a chat; None without a tokenizer.
    """
    if is_local(model.path):
        part: dict[str, Any] = {"type": "image", "image": images[0]}
        if kind == "video":
            part = {"type": "video", "video": list(images)}
        elif kind == "evidence":
            part["evidence"] = True
        read = model.preprocessor()
        with_it, without = (
            read([[{"role": "user", "content": [*parts, {"type": "text", "text": "a"}]}, _EMB]])
            for parts in ([part], [])
        )
        tokens = with_it["input_ids"].shape[1] - without["input_ids"].shape[1]
        return model.differences.put_together(with_it), tokens
    processors = bare_processors(model)
    videos = processors.video_processor
    if kind == "video" and videos is not None:
        made = dict(videos(videos=[list(images)], do_sample_frames=False, return_tensors="pt"))
        pixels = made["pixel_values_videos"]
        if not hasattr(model.core, "get_video_features"):  # InternVL: the frames are tiles
            return {"pixel_values": pixels.flatten(0, 1)}, None
        return made, None
    if kind == "video" and hasattr(model, "frame_pixels"):  # a Qwen3-VL reads two frames as one time step
        images = images[:: model.core.config.vision_config.temporal_patch_size]
    made = processors.image_processor(images=list(images), return_tensors="pt")
    return {name: value if isinstance(value, Tensor) else torch.tensor(value) for name, value in made.items()}, None


def bare_processors(model: Any) -> Any:
    """The image and the video processor of a Hub name, with the settings of the recipe; no network is needed.

    Args:
        model: The model, built.
    """
    config, own_sizes = model.core.config, hasattr(model, "frame_pixels")
    reads_video = not own_sizes and model.differences.reads_video
    processors = SimpleNamespace(
        image_processor=_processor(model.path, "image_processor", IMAGE_PROCESSOR_MAPPING, config),
        video_processor=_processor(model.path, "video_processor", VIDEO_PROCESSOR_MAPPING, config)
        if reads_video
        else None,
    )
    if own_sizes:  # Qwen3-VL's pictures come in the size of their budget
        processors.image_processor.size = {"shortest_edge": 1, "longest_edge": 2**40}
    else:
        model.settings.write_into(processors, model.differences)
    return processors


def _processor(path: str, part: str, mapping: Any, config: Any) -> Any:
    """One of them: by the file beside the config.json, or by the table and the defaults of its class."""
    folder = Path(config.name_or_path)
    images = part == "image_processor"
    if (folder / ("preprocessor_config.json" if images else "video_preprocessor_config.json")).is_file():
        return (AutoImageProcessor if images else AutoVideoProcessor).from_pretrained(folder)
    row = table_row(path) or {}
    made = mapping[type(config)]
    kind: Any = made.get("torchvision") or made.get("pil") if isinstance(made, dict) else made
    return kind(**row.get(part, {}))


def pixels_of_a_token(model: Any) -> int:
    """Pixels that become one token, 0 if the family has no such notion.

    Args:
        model: The model, built.
    """
    images = model.processor.image_processor if is_local(model.path) else bare_processors(model).image_processor
    names = [("patch_size", "merge_size"), ("encoder_patch_size", "downsample_factor")]
    edges = [getattr(images, patch, 0) * getattr(images, merge, 0) for patch, merge in names]
    return int(max(edges)) ** 2
