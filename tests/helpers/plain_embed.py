"""Vectors of chats by transformers and peft alone: FOLDER CHATS.json OUT.safetensors [ADAPTER]."""

import json
import sys
from pathlib import Path

import torch
from peft import PeftModel
from PIL import Image
from safetensors.torch import save_file
from transformers import AutoModelForImageTextToText, AutoProcessor

folder, chats, out, *adapter = sys.argv[1:]
processor = AutoProcessor.from_pretrained(folder)
model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
tokenizer, rows = processor.tokenizer, model.get_input_embeddings().weight.shape[0]
if "<emb>" not in tokenizer.get_vocab():  # a new token's row is the mean of the others
    tokenizer.add_tokens(["<emb>"], special_tokens=True)
    new = tokenizer.convert_tokens_to_ids("<emb>")
    if new >= rows:
        model.resize_token_embeddings(new + 1, mean_resizing=False)
    with torch.no_grad():
        weight = model.get_input_embeddings().weight
        weight[new] = weight[:new].mean(0)
if adapter:
    model = PeftModel.from_pretrained(model, adapter[0]).eval().base_model.model
vectors = []
for content in json.loads(Path(chats).read_text()):
    chat = [{"role": "user", "content": content}, {"role": "assistant", "content": [{"type": "text", "text": "<emb>"}]}]
    pictures = [Image.open(part["path"]) for part in content if part["type"] == "image"]
    text = processor.apply_chat_template(chat, tokenize=False)
    inputs = processor(text=[text], images=pictures or None, return_tensors="pt")
    with torch.no_grad():
        hidden = model.model(**inputs).last_hidden_state[0]
    at = (inputs["input_ids"][0] == tokenizer.convert_tokens_to_ids("<emb>")).nonzero()[-1, 0]
    vectors.append(torch.nn.functional.normalize(hidden[at], dim=0))
save_file({"vectors": torch.stack(vectors)}, out)
