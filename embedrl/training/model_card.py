"""The model card of an exported folder: `README.md`, with the metadata that a hub reads."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from huggingface_hub import ModelCardData

from embedrl.models.adapters import CONFIG_FILE as ADAPTER
from embedrl.models.adapters import adapter_base
from embedrl.models.backbone import Backbone
from embedrl.models.expert_files import has_experts
from embedrl.models.generator import Generator
from embedrl.models.late_interaction import LateInteraction
from embedrl.models.open_clip.backbone import OpenClipBackbone
from embedrl.models.open_clip.config import HUB
from embedrl.models.qwen_vl.loading import is_local
from embedrl.models.two_towers.backbone import TwoTowerBackbone
from embedrl.models.unified.latent_model import LatentModel
from embedrl.models.unified.model import UnifiedModel
from embedrl.models.vlm.base import VisionLanguageModel
from embedrl.models.vlm.encoder import EncoderBackbone
from embedrl.utils.public_names import public_path

CARD = "README.md"
_ONE = "unit vectors; similar ones have a high dot product"

_HOW = {
    "sentence-transformers": """
With sentence-transformers and transformers alone:

```python
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("{name}")
vectors = model.encode(["a red star", {{"image": picture, "text": "what colour is it?"}}])
```

That reads pictures with transformers' loaders, which differ from training's on some: see embedrl's page on export. With
embedrl, pictures, videos and T-CoTs are read as in training:

```python
import embedrl

embedder = embedrl.Embedder.from_pretrained("{name}")
vectors = embedder.encode(["a red star", {{"image": "picture.png", "text": "what colour is it?"}}])
```

In sentence-transformers `embedrl.inference.SentenceTransformersModule("{name}")`, as the one module of a
`SentenceTransformer`, does the same; in mteb `mteb.evaluate(embedrl.mteb.encoder("{name}"), tasks)`.
""",
    "multi-vector": """
With sentence-transformers and transformers alone, every token's vector:

```python
from sentence_transformers import MultiVectorEncoder

model = MultiVectorEncoder("{name}")
queries = model.encode_query(["a red star"])
pages = model.encode_document([{{"image": picture}}])
scores = model.similarity(queries, pages)
```

{pooling}""",
    "open_clip": """
```python
import embedrl

embedder = embedrl.Embedder.from_pretrained("{name}")
vectors = embedder.encode(["a red star", "picture.png"])
```

In mteb: `mteb.evaluate(embedrl.mteb.encoder("{name}"), tasks)`. `SentenceTransformer("{name}")` cannot load it, as
sentence-transformers knows no open_clip model; with `embedrl.inference.SentenceTransformersModule("{name}")` as its
one module it does. With open_clip alone, from inside the folder (a Hugging Face text tower is looked up there):

```python
from contextlib import chdir

import open_clip

with chdir("{name}"):
    model, _, transform = open_clip.create_model_and_transforms("local-dir:.")
    tokenizer = open_clip.get_tokenizer("local-dir:.")
```

open_clip reads transparent pixels as they are beneath, not on white, and the tokenizer's special words as such.
""",
    "two towers": """
```python
import embedrl
from sentence_transformers import SentenceTransformer

model = SentenceTransformer(modules=[embedrl.inference.SentenceTransformersModule("{name}")])
vectors = model.encode(["a red star", picture])
```

With transformers alone; the vectors are to be normalised, and several parts of one input averaged:

```python
from transformers import AutoModel, AutoProcessor

model, processor = AutoModel.from_pretrained("{name}"), AutoProcessor.from_pretrained("{name}")
options = {{"padding": "max_length", "truncation": True, "max_length": {length}, "return_tensors": "pt"}}
vectors = model.get_text_features(**processor.tokenizer(["a red star"], **options)).pooler_output
vectors = model.get_image_features(**processor.image_processor([picture], return_tensors="pt")).pooler_output
```
""",
    "transformers": """
```python
from transformers import AutoModelForImageTextToText, AutoProcessor

processor = AutoProcessor.from_pretrained("{name}")
model = AutoModelForImageTextToText.from_pretrained("{name}")
```

With embedrl, the T-CoT is parsed and its evidence cut out:

```python
import embedrl

thought = embedrl.Reasoner.from_pretrained("{name}").reason(image="picture.png", text="find the red star")
```

or `embedrl reason --checkpoint {name} --image picture.png`, which prints the T-CoT and draws its evidence.
""",
    "peft": """
```python
from peft import PeftModel
from transformers import AutoModelForImageTextToText, AutoProcessor

processor = AutoProcessor.from_pretrained("{name}")
model = AutoModelForImageTextToText.from_pretrained("{base}")
if len(processor.tokenizer) > model.get_input_embeddings().num_embeddings:
    model.resize_token_embeddings(len(processor.tokenizer))
model = PeftModel.from_pretrained(model, "{name}")
```

An Embedder's row of the token `<emb>` comes with the adapter. A base that is called `embedrl:...` is a folder of the
package, `embedrl/assets/...`. embedrl takes the folder as it takes any other;
`embedrl export --checkpoint {name} --out FOLDER` merges it.
""",
    "unified": """
It embeds without reasoning, fast, or behind a reasoning that it writes itself:

```python
import embedrl

fast = embedrl.Embedder.from_pretrained("{name}")
thoughtful = embedrl.Embedder.from_pretrained("{name}", reasoner="{name}")
vectors = thoughtful.encode(["a red star", {{"image": "picture.png", "text": "what colour is it?"}}])
```

Vectors of both kinds are to be compared with those of their own kind. `{cls}` loads the files; transformers loads them
as a vision-language model.
""",
    "latent": """
It embeds without reasoning, or behind latent steps, which need no words:

```python
import embedrl
from embedrl.data import RenderOptions

fast = embedrl.Embedder.from_pretrained("{name}")
thoughtful = embedrl.Embedder.from_pretrained("{name}", render=RenderOptions(tcot="latent"))
vectors = thoughtful.encode(["a red star", {{"image": "picture.png", "text": "what colour is it?"}}])
```

Vectors of both kinds are to be compared with those of their own kind. `{cls}` loads the files.
""",
    "experts": """
```python
import embedrl

vectors = embedrl.Embedder.from_pretrained("{name}").encode(["a red star"])
```

The folder holds LoRA experts and their routers, which choose token by token and so cannot be merged into the weights of
`{base}`. Only embedrl loads them, wherever it takes a checkpoint; peft, transformers and sentence-transformers refuse.
""",
    "embedrl": """
The files are those of `{cls}`, which loads them.
""",
}

_LIBRARY = {
    "two towers": "transformers", "multi-vector": "sentence-transformers", "unified": "embedrl", "latent": "embedrl",
    "experts": "embedrl",
}  # fmt: skip


def write_card(
    out: Path, model: Backbone | Generator, name: str, figures: Mapping[str, float | int] | None = None
) -> None:
    """Write the model card of an exported folder.

    Args:
        out: The folder.
        model: What was exported.
        name: The folder's name, as the card's examples have it.
        figures: What is known of the training, such as steps and validation figures; by name.
    """
    embeds, late = isinstance(model, Backbone), isinstance(model, LateInteraction)
    kind = _kind(out, model)
    length = model.preprocessor().context_length if isinstance(model, TwoTowerBackbone) else 0
    more = {"length": length, "pooling": _pooling(model)}
    base = _base(model)
    data = ModelCardData(
        library_name=_LIBRARY.get(kind, kind),
        pipeline_tag="feature-extraction" if embeds else "image-text-to-text",
        base_model=base if _is_hub_name(base) else None,
        tags=[
            "embedrl",
            *(("sentence-similarity", "multimodal-embedding") if embeds else ("t-cot",)),
            *(("lora",) if (out / ADAPTER).is_file() else ()),
        ],
    )
    what = (
        f"maps texts, pictures and videos to {'a unit vector a token, compared by MaxSim' if late else _ONE}"
        if embeds
        else "writes the T-CoT (reasoning with boxes, key frames or keywords) of a text, a picture or a video"
    )
    lines = [
        f"---\n{data.to_yaml()}\n---\n",
        f"# {name}\n",
        f"{_names(model)} trained with embedrl from `{base}`: it {what}.\n",
        f"## Use\n{_HOW[kind].format(name=name, base=base, cls=public_path(type(model)), **more)}",
    ]
    if figures:
        rows = "\n".join(f"| {key} | {value} |" for key, value in figures.items())
        lines.append(f"## Training\n\n| | |\n|---|---|\n{rows}\n")
    lines.append("The licence is that of the base model and of the training data.\n")
    (out / CARD).write_text("\n".join(lines), encoding="utf-8")


def _names(model: Backbone | Generator) -> str:
    if isinstance(model, UnifiedModel):
        return "A model that reasons and embeds,"
    return "An Embedder" if isinstance(model, Backbone) else "A Reasoner"


def _pooling(model: Backbone | Generator) -> str:
    """How to pool the vectors of a late-interaction Embedder as it does."""
    if not isinstance(model, LateInteraction) or model.budget is None:
        return ""
    return f"""Training pooled a side to at most {model.budget} vectors, and so does `embedrl eval`. For the same here:

```python
from embedrl.models import pool_tokens

pages = [pool_tokens(page, {model.budget}, "{model.pooling}") for page in pages]
```
"""


def _kind(out: Path, model: Backbone | Generator) -> str:
    """The library that loads the folder; `experts`, `unified` and `latent` are embedrl's."""
    if has_experts(str(out)):
        return "experts"
    if isinstance(model, UnifiedModel):
        return "latent" if isinstance(model, LatentModel) and model.latent_steps else "unified"
    if isinstance(model, LateInteraction):
        return "multi-vector" if (out / "modules.json").is_file() else "embedrl"
    if (out / ADAPTER).is_file():
        whole = isinstance(model, VisionLanguageModel) and not isinstance(model, EncoderBackbone)
        return "peft" if whole else "embedrl"
    if isinstance(model, OpenClipBackbone):
        return "open_clip"
    if isinstance(model, TwoTowerBackbone):
        return "two towers"
    if (out / "modules.json").is_file():
        return "sentence-transformers"
    return "transformers" if isinstance(model, Generator) and (out / "config.json").is_file() else "embedrl"


def _base(model: Backbone | Generator) -> str:
    """What the model was trained from: a name, or the last part of a path, as the rest is nobody's business."""
    path = str(model.model if isinstance(model, OpenClipBackbone) else getattr(model, "path", type(model).__name__))
    while isinstance(model, LateInteraction | VisionLanguageModel | TwoTowerBackbone) and (base := adapter_base(path)):
        path = base
    path = path.removeprefix(HUB)
    if path.startswith("embedrl:") or _is_hub_name(path) or "/" not in path:
        return path
    return Path(path.rpartition(":")[2]).name


def _is_hub_name(path: str) -> bool:
    return not is_local(path) and re.fullmatch(r"[\w.-]+/[\w.-]+", path) is not None
