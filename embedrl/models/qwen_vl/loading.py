"""Reading Qwen3-VL checkpoints: processor, configuration, weights, and the `<emb>` token.

A folder with a LoRA adapter in peft's layout counts as its base with the adapter merged.
"""

from __future__ import annotations

import copy
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from tokenizers import AddedToken
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    GenerationConfig,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

import embedrl
from embedrl.errors import CheckpointError, listed, unreadable
from embedrl.models.adapters import adapter_base, merge_adapter
from embedrl.models.export_options import read_options
from embedrl.utils.atomic_files import check_whole
from embedrl.utils.console import tell

EMB_TOKEN = "<emb>"
ASSETS = Path(embedrl.__file__).parent / "assets"
TINY = "embedrl:tiny"
SHIPPED = {"embedrl:world_base": ASSETS / "world_base"}
DTYPES: dict[str, torch.dtype | str] = {"float32": torch.float32, "bfloat16": torch.bfloat16, "auto": "auto"}
_OF_A_RUN = ("*.ckpt", "checkpoints/*.ckpt", "*/checkpoints/*.ckpt")
_WORLD_TOKENS = 10_000
CURE = "give a folder with a Qwen3-VL checkpoint or a LoRA adapter, a Hub name, embedrl:world_base or embedrl:tiny"


def load_processor(path: str) -> Any:
    """The processor of a checkpoint; an adapter's is its base's.

    Raises:
        CheckpointError: If it cannot be read, or an adapter comes with another `<emb>`.
    """
    if base := adapter_base(path):
        processor = load_processor(base)
        _check_adapter_token(path, processor.tokenizer)
        return processor
    if path == TINY:
        return _tiny().build_processor(_tiny().build_tokenizer(_tiny().world_words()))
    with unreadable(f"{path}: cannot read the processor", CURE, CheckpointError):
        return AutoProcessor.from_pretrained(_place(path))


def load_options(path: str) -> dict[str, Any]:
    """What an exported folder says in its `embedrl_config.json`; of an adapter without one, what its base says.

    Raises:
        CheckpointError: If that file is broken.
    """
    kind, options = read_options(_place(path)) if path != TINY else ("", {})
    base = adapter_base(path)
    return load_options(base) if base and not kind else options


def load_class(path: str) -> str:
    """The class that an exported folder names in its `embedrl_config.json`; empty if it names none.

    Raises:
        CheckpointError: If that file is broken.
    """
    return read_options(_place(path))[0] if path != TINY else ""


@lru_cache(maxsize=8)
def load_config(path: str) -> Qwen3VLConfig:
    """The configuration of a checkpoint.

    Raises:
        CheckpointError: If it cannot be read or is not a Qwen3-VL's.
    """
    if base := adapter_base(path):
        return load_config(base)
    if path == TINY:
        return _tiny().build_config(_tiny().build_tokenizer(_tiny().world_words()))
    with unreadable(f"{path}: cannot read config.json", CURE, CheckpointError):
        raw, _ = Qwen3VLConfig.get_config_dict(_place(path))
        if raw.get("model_type") != "qwen3_vl":
            raise CheckpointError(f"{path}: model_type is {raw.get('model_type')!r}, not 'qwen3_vl'; {CURE}")
        return Qwen3VLConfig.from_dict(raw)


def load_network(path: str, dtype: torch.dtype | str, attn_implementation: str) -> Any:
    """The model with its weights, from safetensors alone.

    Raises:
        CheckpointError: If weights are missing, left over, or of another shape; the message names them.
    """
    if base := adapter_base(path):
        return merge_adapter(load_network(base, dtype, attn_implementation), path)
    config = load_config(path)
    if path == TINY:
        return _tiny().build_model(config).to(torch.float32 if dtype == "auto" else dtype)
    with unreadable(f"{path}: cannot read the weights", CURE, CheckpointError):
        network, info = Qwen3VLForConditionalGeneration.from_pretrained(
            _place(path),
            dtype=dtype,
            attn_implementation=attn_implementation,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # so that the misfits are reported by name below
        )
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        names = sorted(str(key[0] if isinstance(key, tuple) else key) for key in info[kind])
        if names:
            raise CheckpointError(f"{path}: {kind.replace('_', ' ')} in the weights: {listed(names)}")
    return network


def empty_network(path: str, dtype: torch.dtype | str, attn_implementation: str) -> Any:
    """The model that `load_network` returns, without its weights; call it under `torch.device("meta")`.

    Where the weights decide on the dtype (`auto`, and config.json does not say), it may differ.

    Raises:
        CheckpointError: If config.json cannot be read.
    """
    if base := adapter_base(path):
        return empty_network(base, dtype, attn_implementation)
    config = copy.deepcopy(load_config(path))  # what follows writes into it
    dtype = (config.dtype or torch.float32) if isinstance(dtype, str) else dtype
    if path == TINY:
        return _tiny().build_model(config).to(dtype)
    network = AutoModelForImageTextToText.from_config(config, dtype=dtype, attn_implementation=attn_implementation)
    # A checkpoint without the file has what its config.json says, which the model was made with.
    with suppress(OSError):
        network.generation_config = GenerationConfig.from_pretrained(_place(path))
    return network


def _tiny() -> ModuleType:
    """The built-in model's file: it knows the built-in world, which no other checkpoint needs."""
    from embedrl.models.qwen_vl import tiny

    return tiny


def emb_token_id(tokenizer: Any, config: Any, path: str) -> tuple[int, bool]:
    """The id of `<emb>`, which is added to the tokenizer if it is missing.

    Returns:
        The id, and whether the token was added just now.

    Raises:
        CheckpointError: If the checkpoint records another id than its tokenizer has.
    """
    added = EMB_TOKEN not in tokenizer.get_vocab()
    if added:
        tokenizer.add_tokens([AddedToken(EMB_TOKEN, special=True, normalized=False)], special_tokens=True)
    token_id = int(tokenizer.convert_tokens_to_ids(EMB_TOKEN))
    recorded = getattr(config, "emb_token_ids", None)
    if recorded is not None:
        ids = [recorded] if isinstance(recorded, int) else list(recorded)
        if token_id not in ids:
            raise CheckpointError(
                f"{path}: config.emb_token_ids is {ids}, but the tokenizer's {EMB_TOKEN} is {token_id}"
            )
    return token_id, added


def prepare_emb_row(network: Any, tokenizer: Any, emb_id: int, added: bool) -> None:
    """Record the id of `<emb>`; grow the embedding where it has no row for it; fill the row if the token was added.

    A new row is the mean of the others: a pure function of the checkpoint.
    """
    network.config.emb_token_ids = [emb_id]
    words = min(emb_id, network.get_input_embeddings().weight.shape[0])
    if emb_id >= network.get_input_embeddings().weight.shape[0]:
        network.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    if not added:
        return
    with torch.no_grad():
        for module in {
            id(m.weight): m for m in (network.get_input_embeddings(), network.get_output_embeddings())
        }.values():
            module.weight[emb_id] = module.weight[:words].float().mean(0).to(module.weight.dtype)


def tell_if_of_the_world(path: str, tokenizer: Any) -> None:
    """Say in one line that a model of the built-in world is of no use outside of it; say nothing of other models.

    Args:
        path: The model, as the user named it.
        tokenizer: Its tokenizer: the world's has about a thousand tokens, a pretrained model's 150,000.
    """
    if len(tokenizer) < _WORLD_TOKENS:
        tell(
            f"{path} knows the built-in world alone: for other pictures and texts take a pretrained Qwen3-VL, such as "
            "Qwen/Qwen3-VL-2B-Instruct"
        )


def is_local(path: str) -> bool:
    """Whether a path is a folder or ships with the package; otherwise it is a Hub name."""
    return path.startswith(("embedrl:", ".", "/", "~")) or Path(path).is_dir()


def _place(path: str) -> str:
    if path in SHIPPED:
        return str(SHIPPED[path])
    if path.startswith("embedrl:"):
        raise CheckpointError(f"{path} is no shipped checkpoint; {CURE}")
    check_whole(path)
    folder = Path(path).expanduser()
    if path.startswith((".", "/", "~")) and not folder.is_dir():
        raise CheckpointError(f"{path}: no such folder; {CURE}")
    if not (folder / "config.json").is_file() and any(next(folder.glob(place), None) for place in _OF_A_RUN):
        raise CheckpointError(
            f"{path}: a run's folder; `embedrl export --checkpoint {path} --out FOLDER` writes the folder to give here"
        )
    return str(Path(path).expanduser()) if path.startswith("~") else path


def _check_adapter_token(path: str, tokenizer: Any) -> None:
    """An adapter was trained with `<emb>` at some id: its base must give the token the same one."""
    if not (Path(path).expanduser() / "tokenizer_config.json").is_file():
        return
    theirs = AutoTokenizer.from_pretrained(path).get_vocab().get(EMB_TOKEN)
    ours = tokenizer.get_vocab().get(EMB_TOKEN, len(tokenizer))
    if theirs is not None and theirs != ours:
        raise CheckpointError(
            f"{path}: the adapter's {EMB_TOKEN} is {theirs}, its base would make it {ours}: "
            "wrong base_model_name_or_path"
        )
