"""What all families' checkpoints share: where they lie, the `<emb>` token, whether their weights fit."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]
from tokenizers import AddedToken
from transformers import AutoTokenizer

from embedrl.errors import CheckpointError, listed
from embedrl.utils.atomic_files import check_whole
from embedrl.utils.console import tell
from embedrl.utils.reserved_words import EMB_TOKEN

DTYPES: dict[str, torch.dtype | str] = {"float32": torch.float32, "bfloat16": torch.bfloat16, "auto": "auto"}
_WORLD_TOKENS = 10_000
_OF_A_RUN = ("*.ckpt", "checkpoints/*.ckpt", "*/checkpoints/*.ckpt")


def checkpoint_place(path: str, cure: str) -> str:
    """A folder or a Hub name as transformers takes it.

    Raises:
        CheckpointError: If the folder does not exist or is half written; the message ends with `cure`.
    """
    if path.startswith("embedrl:"):
        raise CheckpointError(f"{path} is no shipped checkpoint; {cure}")
    check_whole(path)
    folder = Path(path).expanduser()
    if folder.is_file():
        raise CheckpointError(f"{path}: a file; {cure}")
    if not folder.is_dir() and not may_be_on_the_hub(path):
        raise CheckpointError(f"{missing_folder(path)}; {cure}")
    if not (folder / "config.json").is_file() and any(next(folder.glob(place), None) for place in _OF_A_RUN):
        raise CheckpointError(
            f"{path}: a run's folder; `embedrl export --checkpoint {path} --out FOLDER` writes the folder to give here"
        )
    return str(Path(path).expanduser()) if path.startswith("~") else path


def may_be_on_the_hub(path: str) -> bool:
    """Whether a path can be the name of a repository on the Hugging Face Hub, such as `Qwen/Qwen3-VL-2B-Instruct`."""
    if path.startswith((".", "/", "~")):
        return False
    try:
        validate_repo_id(path)
    except HFValidationError:
        return False
    return True


def missing_folder(path: str) -> str:
    """An error about a model's folder that is not there: the command that writes it, a quickstart's its own."""
    if quickstart := re.search(r"(?:^|/)runs/quickstart_(\w+)/model/?$", path):
        command = f"embedrl fit --config configs/quickstart/{quickstart[1]}.yaml"
    else:
        command = f"embedrl export --checkpoint RUN --out {path}"
    return f"{path}: no such folder: check the path, or write it with `{command}`"


def unread(path: str, what: str) -> str:
    """The beginning of an error: what cannot be read of a checkpoint, and where it was looked for.

    Args:
        path: The checkpoint, which is a folder or may be on the Hub.
        what: A part of it.
    """
    if Path(path).expanduser().is_dir() or path.startswith("embedrl:"):
        return f"{path}: cannot read {what}"
    return f"{path}: no such folder, and on the Hub cannot read {what}"


def config_identity(path: str) -> tuple[str, int]:
    """Where a checkpoint's config.json lies, absolutely, and when it was written: what a cache of it goes by.

    A relative path may mean another folder later, and a folder may be written anew.

    Args:
        path: Any checkpoint; one that is no folder was never written.
    """
    file = Path(path).expanduser() / "config.json"
    return str(file.resolve()), file.stat().st_mtime_ns if file.is_file() else 0


def check_loaded(path: str, info: Mapping[str, Any], kinds: tuple[str, ...]) -> None:
    """Refuse weights that do not fit.

    Args:
        path: The checkpoint.
        info: What `from_pretrained` says about its weights.
        kinds: Which kinds of keys must be none.

    Raises:
        CheckpointError: Naming the keys.
    """
    for kind in kinds:
        names = sorted(str(key[0] if isinstance(key, tuple) else key) for key in info[kind])
        if names:
            raise CheckpointError(f"{path}: {kind.replace('_', ' ')} in the weights: {listed(names)}")


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
            if emb_id < len(module.weight):  # Molmo 2 reads more tokens than it writes
                module.weight[emb_id] = module.weight[:words].float().mean(0).to(module.weight.dtype)


def check_adapter_token(path: str, tokenizer: Any) -> None:
    """An adapter was trained with `<emb>` at some id: its base must give the token the same one.

    Raises:
        CheckpointError: If it does not.
    """
    if not (Path(path).expanduser() / "tokenizer_config.json").is_file():
        return
    theirs = AutoTokenizer.from_pretrained(path).get_vocab().get(EMB_TOKEN)
    ours = tokenizer.get_vocab().get(EMB_TOKEN, len(tokenizer))
    if theirs is not None and theirs != ours:
        raise CheckpointError(
            f"{path}: the adapter's {EMB_TOKEN} is {theirs}, its base would make it {ours}: "
            "wrong base_model_name_or_path"
        )


def tell_if_of_the_world(path: str, tokenizer: Any) -> None:
    """Say in one line that a model of the built-in world is of no use outside of it; say nothing of other models.

    Args:
        path: The model, as the user named it.
        tokenizer: Its tokenizer: the world's has about a thousand tokens, a pretrained model's 32,000 or more.
    """
    if len(tokenizer) < _WORLD_TOKENS:
        tell(
            f"{path} knows the built-in world alone: for other pictures and texts take a pretrained model, such as "
            "Qwen/Qwen3-VL-2B-Instruct"
        )
