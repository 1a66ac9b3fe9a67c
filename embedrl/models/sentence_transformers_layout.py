"""The files that make an exported Embedder a folder that `SentenceTransformer(DIR)` loads.

The folder's chat template closes the conversation the way the Embedder was trained (the summary line, then `<emb>`)
whenever the caller did not, so that plain messages, texts, pictures and videos need no preparation.
"""

from __future__ import annotations

import json
from pathlib import Path

from embedrl.data.render import SUMMARIZE
from embedrl.errors import CheckpointError
from embedrl.utils.reserved_words import EMB_TOKEN

_CLOSE = """\
{%- if not add_generation_prompt and messages[-1].role != 'assistant' -%}
{%- set last = messages[-1] -%}
{%- set parts = [{'type': 'text', 'text': last.content}] if last.content is string else last.content -%}
{%- set line = ('\\n' if parts and parts[-1].type == 'text' else '') + SUMMARIZE -%}
{%- set closed = {'role': last.role, 'content': parts + [{'type': 'text', 'text': line}]} -%}
{%- set answer = {'role': 'assistant', 'content': [{'type': 'text', 'text': EMB_TOKEN}]} -%}
{%- set messages = messages[:-1] + [closed, answer] -%}
{%- endif -%}
"""
# Pooling takes the last token, so `<emb>` must be that; with causal attention, later tokens could not change it.
_CUT = "{{- rendered[: rendered.rfind(EMB_TOKEN) + EMB_TOKEN | length] if EMB_TOKEN in rendered else rendered -}}"


def closing_template(template: str) -> str:
    """A chat template that ends every conversation at `<emb>`; one that does so already comes back as it is.

    Args:
        template: The checkpoint's own chat template.
    """
    head = f"{{%- set EMB_TOKEN = {EMB_TOKEN!r} -%}}\n{{%- set SUMMARIZE = {SUMMARIZE!r} -%}}\n"
    if template.startswith(head):
        return template
    return f"{head}{_CLOSE}{{%- set rendered -%}}\n{template}\n{{%- endset -%}}\n{_CUT}\n"


def write_layout(out: Path, dim: int, video: bool = True) -> None:
    """Add the sentence-transformers files to an exported checkpoint: last-token pooling at `<emb>`, then L2 norm.

    Args:
        out: The exported folder, with `chat_template.jinja` in it.
        dim: Dimension of the vectors.
        video: Whether the processor reads videos.

    Raises:
        CheckpointError: If the folder holds no chat template.
    """
    template = out / "chat_template.jinja"
    if not template.is_file():
        raise CheckpointError(f"{template}: no chat template to export; save the processor with one")
    template.write_text(closing_template(template.read_text(encoding="utf-8")), encoding="utf-8")
    package = "sentence_transformers"
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": f"{package}.base.modules.transformer.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": f"{package}.sentence_transformer.modules.pooling.Pooling"},
        {
            "idx": 2,
            "name": "2",
            "path": "2_Normalize",
            "type": f"{package}.sentence_transformer.modules.normalize.Normalize",
        },
    ]
    entry = {"method": "forward", "method_output_name": "last_hidden_state", "format": "structured"}
    files = {
        "modules.json": modules,
        "sentence_bert_config.json": {
            "transformer_task": "feature-extraction",
            "modality_config": dict.fromkeys(("message", "text", "image", *(["video"] if video else [])), entry),
            "module_output_name": "token_embeddings",
            "processing_kwargs": {"video": {"do_sample_frames": False}} if video else {},
        },
        "config_sentence_transformers.json": {"similarity_fn_name": "cosine", "model_type": "SentenceTransformer"},
        "1_Pooling/config.json": {"embedding_dimension": dim, "pooling_mode": "lasttoken"},
        "2_Normalize/config.json": {},
    }
    for name, content in files.items():
        path = out / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
