"""Where an open_clip model's configuration, tokenizer and weights come from."""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import open_clip
from open_clip.pretrained import download_pretrained_from_hf
from open_clip.tokenizer import HFTokenizer, SimpleTokenizer
from open_clip.transform import PreprocessCfg, image_transform_v2, merge_preprocess_dict

from embedrl.errors import CheckpointError, ConfigError, unreadable
from embedrl.models.weight_files import package_path
from embedrl.utils.atomic_files import check_whole
from embedrl.utils.reserved_words import EscapedCleaning

CONFIG_FILE = "open_clip_config.json"
WEIGHTS_FILE = "open_clip_model.safetensors"
ASSET, HUB, FOLDER = "embedrl:", "hf-hub:", "local-dir:"


@dataclass(frozen=True)
class ClipConfig:
    """What open_clip needs to build one model.

    Attributes:
        model: Arguments of open_clip's model class (`embed_dim`, `vision_cfg`, `text_cfg` ...).
        preprocess: open_clip's `PreprocessCfg` as a dict, the size included.
        tokenizer: The name under which open_clip finds the tokenizer; empty where the configuration names it.
    """

    model: dict[str, Any]
    preprocess: dict[str, Any]
    tokenizer: str = ""


def read_config(name: str, pretrained: str | None) -> ClipConfig:
    """Read a model's configuration, without its weights.

    Args:
        name: open_clip's name of a model, `hf-hub:ORG/NAME`, `local-dir:FOLDER`, the path of a JSON file, or
            `embedrl:NAME` for a configuration shipped with this package.
        pretrained: A tag, whose normalisation is used, or anything else.

    Raises:
        ConfigError: If there is no such model, or it is of a kind that has no two towers.
    """
    check_whole(name)
    content, folder = _find(name)
    if "model_cfg" not in content:
        content = {"model_cfg": content, "preprocess_cfg": {}}
    model = deepcopy(content["model_cfg"])
    missing = [key for key in ("embed_dim", "vision_cfg", "text_cfg") if key not in model]
    if missing or "multimodal_cfg" in model:
        raise ConfigError(f"backbone.model {name}: needs embed_dim, vision_cfg and text_cfg, and no multimodal_cfg")
    uploaded = False
    for key in ("hf_model_name", "hf_tokenizer_name"):
        value = model["text_cfg"].get(key)
        if value and folder is not None and (folder / "config.json").is_file():
            model["text_cfg"][key] = str(folder)  # an exported folder holds its text tower's configuration
        elif value == "." and name.startswith(HUB):  # one that was uploaded
            model["text_cfg"][key], uploaded = name.removeprefix(HUB), True
        elif value and value.startswith("package:"):
            model["text_cfg"][key] = package_path(value)
    known = name in open_clip.list_models()
    tag = (open_clip.get_pretrained_cfg(name, pretrained) or {}) if known and pretrained else {}
    preprocess = merge_preprocess_dict(PreprocessCfg(), content.get("preprocess_cfg", {}))
    preprocess = merge_preprocess_dict(preprocess, tag)
    preprocess["size"] = model["vision_cfg"].get("image_size", 224)
    return ClipConfig(model, preprocess, name if known or (name.startswith((HUB, FOLDER)) and not uploaded) else "")


def _find(name: str) -> tuple[dict[str, Any], Path | None]:
    """The configuration as it was written, and the exported folder it comes from."""
    if name.startswith(HUB):
        from huggingface_hub import hf_hub_download

        return _read_json(Path(hf_hub_download(name.removeprefix(HUB), CONFIG_FILE))), None
    if name.startswith(FOLDER):
        folder = Path(name.removeprefix(FOLDER))
        return _read_json(folder / CONFIG_FILE), folder.resolve()
    if name.startswith(ASSET):
        return _read_json(
            Path(str(files("embedrl") / "assets" / "open_clip" / f"{name.removeprefix(ASSET)}.json"))
        ), None
    if name.endswith(".json"):
        return _read_json(Path(name)), None
    if name not in open_clip.list_models():
        raise ConfigError(
            f"backbone.model {name!r}: open_clip has no model of that name; see open_clip.list_models(), "
            "or give the path of a JSON file"
        )
    return open_clip.get_model_config(name), None


def _read_json(path: Path) -> dict[str, Any]:
    with unreadable(f"backbone.model: cannot read {path}", "give an open_clip configuration", ConfigError):
        content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ConfigError(f"backbone.model: {path} holds no JSON object: give an open_clip configuration")
    return content


def find_weights(name: str, pretrained: str | None) -> str | None:
    """The file of a whole model's weights; downloads it if `name` or `pretrained` says so.

    Raises:
        ConfigError: If `pretrained` is neither a tag nor a file, or is given where the model has its own weights.
        CheckpointError: If an exported folder has no weights.
    """
    if name.startswith((HUB, FOLDER)):
        if pretrained is not None:
            raise ConfigError(f"backbone.pretrained {pretrained!r}: leave it out, {name} brings its own weights")
        if name.startswith(HUB):
            return str(download_pretrained_from_hf(name.removeprefix(HUB)))
        path = Path(name.removeprefix(FOLDER)) / WEIGHTS_FILE
        if not path.is_file():
            raise CheckpointError(f"{path} does not exist: export the model again, or give another folder")
        return str(path)
    if pretrained is None:
        return None
    if Path(pretrained).is_file() or pretrained.startswith("package:"):
        return package_path(pretrained)
    tag = open_clip.get_pretrained_cfg(name, pretrained)
    if not tag:
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(name)) or "none"
        raise ConfigError(f"backbone.pretrained {pretrained!r} is neither a file nor a tag of {name} (tags: {tags})")
    return str(open_clip.download_pretrained(tag))


def make_tokenizer(config: ClipConfig) -> Any:
    """open_clip's tokenizer of a model: texts → token ids `[texts, context_length]`, padded and cut to that length.

    A special token of the tokenizer that a text spells is read as text.
    """
    text = config.model["text_cfg"]
    if config.tokenizer:
        return _with_text_as_text(open_clip.get_tokenizer(config.tokenizer))
    options = {"context_length": text.get("context_length", 77), **(text.get("tokenizer_kwargs") or {})}
    if text.get("hf_tokenizer_name"):
        name, mode = text["hf_tokenizer_name"], text.get("tokenizer_mode")
        return _with_text_as_text(HFTokenizer(name, tokenizer_mode=mode, **options))
    return _with_text_as_text(SimpleTokenizer(**options))


def _with_text_as_text(tokenizer: Any) -> Any:
    """The tokenizer, which then reads its own special tokens in a text as text."""
    if hasattr(tokenizer, "clean_fn"):  # SigLipTokenizer has none and takes all punctuation away
        tokenizer.clean_fn = EscapedCleaning(tokenizer)
    return tokenizer


def make_transform(config: ClipConfig) -> Any:
    """open_clip's transform at inference: picture → normalised pixels `[3, height, width]`."""
    return image_transform_v2(PreprocessCfg(**config.preprocess), is_train=False)


def make_model(config: ClipConfig, load_towers: bool) -> Any:
    """The two towers.

    Args:
        config: Which ones.
        load_towers: Whether a Hugging Face text tower loads the weights found beside its configuration.
    """
    model = deepcopy(config.model)
    custom = model.pop("custom_text", False)
    if "hf_model_name" in model["text_cfg"]:
        custom, model["text_cfg"]["hf_model_pretrained"] = True, load_towers
    clip = (open_clip.CustomTextCLIP if custom else open_clip.CLIP)(**model)
    open_clip.set_model_preprocess_cfg(clip, config.preprocess)
    return clip
