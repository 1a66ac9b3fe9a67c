"""The files that make an exported Embedder a folder that `SentenceTransformer(DIR)` loads.

The folder's chat template makes of plain messages what the Embedder was trained on: it closes a conversation that does
not end with an assistant's turn (the summary line, then `<emb>`); puts a system message, sentence-transformers' prompt,
in front of the text; puts a text that stands between pictures behind them; and reads words that are special tokens as
text.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from embedrl.data.render import SUMMARIZE
from embedrl.errors import CheckpointError
from embedrl.utils.reserved_words import EMB_TOKEN, word_list

# Spaces of an indented template would be part of the text: every tag takes those around it away.
_CLOSE = """\
{%- macro as_text(words) -%}
{%- set ns = namespace(text=words) -%}
{%- for word in RESERVED -%}
{%- set ns.text = ns.text | replace(word, word[:1] ~ ' ' ~ word[1:]) -%}
{%- endfor -%}
{{- ns.text -}}
{%- endmacro -%}
{%- if not add_generation_prompt and messages[-1].role != 'assistant' -%}
{%- set ns = namespace(prompt='', turns=[]) -%}
{%- if messages | length == 2 and messages[0].role == 'system' and messages[1].role == 'user' -%}
{%- set prompt = messages[0].content -%}
{%- set ns.prompt = prompt if prompt is string else prompt | map(attribute='text') | join -%}
{%- set messages = messages[1:] -%}
{%- endif -%}
{%- for message in messages -%}
{%- set content = message.content -%}
{%- set content = [{'type': 'text', 'text': content}] if content is string else content or [] -%}
{%- set parts = namespace(texts=[], others=[], all=[]) -%}
{%- for part in content -%}
{%- if part.type == 'text' or part.type is not defined and part.text is defined -%}
{%- set words = as_text(ns.prompt ~ part.text) -%}
{%- set ns.prompt = '' -%}
{%- if words.strip() -%}
{%- set parts.texts = parts.texts + [{'type': 'text', 'text': words}] -%}
{%- set parts.all = parts.all + [{'type': 'text', 'text': words}] -%}
{%- endif -%}
{%- else -%}
{%- set parts.others = parts.others + [part] -%}
{%- set parts.all = parts.all + [part] -%}
{%- endif -%}
{%- endfor -%}
{%- if ns.prompt.strip() and loop.last -%}
{%- set parts.texts = [{'type': 'text', 'text': as_text(ns.prompt)}] -%}
{%- endif -%}
{%- set parts = parts.others + parts.texts if parts.texts | length == 1 else parts.all -%}
{%- if loop.last -%}
{%- set line = ('\\n' if parts and parts[-1].type == 'text' else '') ~ SUMMARIZE -%}
{%- set parts = parts + [{'type': 'text', 'text': line}] -%}
{%- endif -%}
{%- set ns.turns = ns.turns + [{'role': message.role, 'content': parts}] -%}
{%- endfor -%}
{%- set answer = {'role': 'assistant', 'content': [{'type': 'text', 'text': EMB_TOKEN}]} -%}
{%- set messages = ns.turns + [answer] -%}
{%- endif -%}
"""
_OPEN = "{%- set rendered -%}\n"
# Pooling takes the last token, so `<emb>` must be that; with causal attention, later tokens could not change it.
_END = """
{%- endset -%}
{{- rendered[: rendered.rfind(EMB_TOKEN) + EMB_TOKEN | length] if EMB_TOKEN in rendered else rendered -}}
"""


def closing_template(template: str, reserved: Sequence[str]) -> str:
    """A chat template that ends every conversation at `<emb>`; of one that does so already, the template inside.

    Args:
        template: The checkpoint's own chat template.
        reserved: The words that its tokenizer reads as one token, the longest first.
    """
    head = f"{{%- set EMB_TOKEN = {EMB_TOKEN!r} -%}}\n{{%- set SUMMARIZE = {SUMMARIZE!r} -%}}\n"
    if template.startswith(head):
        template = template.partition(_OPEN)[2].rpartition(_END)[0]
    words = json.dumps(list(reserved), ensure_ascii=False)
    return f"{head}{{%- set RESERVED = {words} -%}}\n{_CLOSE}{_OPEN}{template}{_END}"


def write_layout(out: Path, dim: int, tokenizer: Any, video: bool = True) -> None:
    """Add the sentence-transformers files to an exported checkpoint: last-token pooling at `<emb>`, then L2 norm.

    Args:
        out: The exported folder, with `chat_template.jinja` in it.
        dim: Dimension of the vectors.
        tokenizer: Its tokenizer.
        video: Whether the processor reads videos.

    Raises:
        CheckpointError: If the folder holds no chat template.
    """
    file = out / "chat_template.jinja"
    if not file.is_file():
        raise CheckpointError(f"{file}: no chat template to export; save the processor with one")
    template = closing_template(file.read_text(encoding="utf-8"), word_list(tokenizer))
    file.write_text(template, encoding="utf-8")
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
