"""mteb evaluates an Embedder: small offline tasks, whose scores are those of the kit's own metrics."""

import builtins
import sys
from typing import ClassVar

import numpy as np
import pytest
import torch
from datasets import Dataset
from datasets import Image as ImageFeature
from PIL import Image, ImageDraw

import embedrl
from embedrl.errors import ConfigError
from embedrl.metrics.ranking import rank
from embedrl.metrics.retrieval import mean_metrics

pytestmark = pytest.mark.slow  # mteb takes seconds to import

COLOURS = ("red", "green", "blue", "white", "black", "yellow", "purple", "orange")


def picture(colour, size=(64, 48)):
    return Image.new("RGBA", size, colour)


def page(colour):
    image = Image.new("RGB", (64, 96), "white")
    ImageDraw.Draw(image).text((4, 40), colour, "black")
    return image


def task(name, category, queries, documents):
    """A retrieval task of mteb: query `i` asks for document `i`, and half as much for the next one."""
    from mteb.abstasks.retrieval import AbsTaskRetrieval
    from mteb.abstasks.retrieval_dataset_loaders import RetrievalSplitData
    from mteb.abstasks.task_metadata import TaskMetadata

    def table(prefix, items):
        kind = "text" if isinstance(items[0], str) else "image"
        rows = Dataset.from_dict({"id": [f"{prefix}{i}" for i in range(len(items))], kind: items})
        return rows if kind == "text" else rows.cast_column("image", ImageFeature())

    class Offline(AbsTaskRetrieval):
        metadata = TaskMetadata(
            name=name, description="x", reference=None, dataset={"path": "none", "revision": "1"},
            type="Any2AnyRetrieval", category=category, modalities=["text", "image"], eval_splits=["test"],
            eval_langs=["eng-Latn"], main_score="ndcg_at_5", date=None, domains=None, task_subtypes=None,
            license=None, annotations_creators=None, dialect=None, sample_creation=None, bibtex_citation=None,
            prompt={"query": "find the picture of"},
        )  # fmt: skip

        def load_data(self, num_proc=None, **_):
            judged = {f"q{i}": {f"d{i}": 2, f"d{(i + 1) % len(documents)}": 1} for i in range(len(queries))}
            data = RetrievalSplitData(
                queries=table("q", queries), corpus=table("d", documents), relevant_docs=judged, top_ranked=None
            )
            self.dataset, self.data_loaded = {"default": {"test": data}}, True

    return Offline()


def tasks():
    return {
        "t2i": (list(COLOURS), [picture(c) for c in COLOURS]),
        "i2i": ([picture(c, (40, 40)) for c in COLOURS], [picture(c) for c in COLOURS]),
        "t2page": ([f"the page on {c}" for c in COLOURS], [page(c) for c in COLOURS]),
    }


@pytest.fixture(scope="module")
def mteb():
    return pytest.importorskip("mteb")


def ours(queries, documents):
    """The kit's own figures of the same vectors."""
    count = len(queries)
    qrels = [{i: 2.0, (i + 1) % count: 1.0} for i in range(count)]
    ranking = rank(torch.as_tensor(queries), torch.as_tensor(documents), qrels, k=count)
    return mean_metrics(ranking, (1, 5))


@pytest.fixture(scope="module")
def embedder(checkpoint):
    return embedrl.Embedder.from_pretrained(checkpoint, device="cpu")


@pytest.mark.parametrize("name", ["t2i", "i2i", "t2page"])
@pytest.mark.filterwarnings("ignore")
def test_scores_are_the_kits_own(name, embedder, mteb):
    queries, documents = tasks()[name]
    model = embedrl.mteb.encoder(embedder, name="ours/tiny")
    result = mteb.evaluate(model, task(name, "i2i" if name == "i2i" else "t2i", queries, documents), cache=None)
    (scores,) = result.task_results[0].scores["test"]
    vectors = embedder.encode(queries), embedder.encode(documents, role="target")
    figures = ours(*vectors)
    for k in (1, 5):
        assert scores[f"ndcg_at_{k}"] == pytest.approx(figures[f"ndcg_linear@{k}"], abs=1e-5)
        assert scores[f"hit_rate_at_{k}"] == pytest.approx(figures[f"hit@{k}"], abs=1e-5)
    assert result.model_name == "ours/tiny"


@pytest.mark.filterwarnings("ignore")
def test_results_of_the_raw_and_the_reasoned_model_lie_side_by_side(checkpoint, tmp_path, mteb):
    reasoner = embedrl.Reasoner.from_pretrained(checkpoint, device="cpu", style="brief", max_new_tokens=8)
    pair = embedrl.mteb.raw_and_tcot(checkpoint, reasoner, device="cpu")
    raw, reasoned = pair
    assert raw.embedder.backbone is reasoned.embedder.backbone
    assert reasoned.name == f"{raw.name}-tcot"
    cache = mteb.ResultCache(tmp_path)
    for model in pair:
        mteb.evaluate(model, task("t2i", "t2i", *tasks()["t2i"]), cache=cache)
    frame = cache.load_results(include_remote=False).to_dataframe()
    assert set(frame.columns) >= {raw.name, reasoned.name}
    longer = embedrl.Reasoner(reasoner.generator, "cpu", style="brief", max_new_tokens=9)
    other = embedrl.mteb.encoder(checkpoint, longer, device="cpu")
    assert len({model.mteb_model_meta.revision for model in (*pair, other)}) == 3


class Loader:
    """mteb's loader of batches, as far as an encoder sees it."""

    def __init__(self, batches):
        self.batches, self.dataset = batches, Dataset.from_dict({})

    def __iter__(self):
        return iter(self.batches)


class Metadata:
    prompt: ClassVar = {"query": "find the picture of", "document": "a picture:"}


def test_pictures_are_on_white_and_prompts_stand_in_front(embedder):
    model = embedrl.mteb.encoder(embedder, instructions=True)
    clear = Image.new("RGBA", (40, 30), (255, 0, 0, 0))
    batches = [{"id": ["1", "2"], "image": [clear, picture("red")]}, {"id": ["3"], "text": ["a star"]}]
    vectors = model.encode(Loader(batches), task_metadata=Metadata)
    white = embedder.encode(Image.new("RGB", (40, 30), "white"), instruction="find the picture of")
    np.testing.assert_allclose(vectors[0], white, atol=1e-5)
    np.testing.assert_allclose(vectors[2], embedder.encode("find the picture of a star"), atol=1e-5)
    documents = model.encode(Loader(batches[1:]), task_metadata=Metadata, prompt_type="document")
    np.testing.assert_allclose(documents[0], embedder.encode("a picture: a star"), atol=1e-5)
    assert model.encode(Loader([]), task_metadata=Metadata).shape == (0, embedder.dim)
    similar = model.similarity(vectors, vectors)
    np.testing.assert_allclose(similar.diagonal(), model.similarity_pairwise(vectors, vectors), atol=1e-6)


class Decoder:
    """What mteb gives for a video: a decoder of torchcodec's, as far as its collator uses it."""

    class metadata:  # noqa: N801
        num_frames = 16

    def get_frames_at(self, indices):
        self.data = torch.stack([torch.full((3, 40, 40), index * 10, dtype=torch.uint8) for index in indices])
        return self


def test_a_video_is_sampled(embedder):
    loader = Loader([])
    loader.dataset = Dataset.from_dict({"video": []})
    model = embedrl.mteb.encoder(embedder)
    model.encode(loader, task_metadata=Metadata)
    loader.batches = [loader.collate_fn([{"video": Decoder()}, {"video": Decoder()}])]
    vectors = model.encode(loader, task_metadata=Metadata)
    places = np.linspace(0, 15, embedder.num_frames).round().astype(int)
    frames = [Image.new("RGB", (40, 40), (int(i) * 10,) * 3) for i in places]
    np.testing.assert_allclose(vectors, [embedder.encode({"video": frames})] * 2, atol=1e-5)


def test_the_metadata_say_what_it_is(embedder):
    meta = embedrl.mteb.encoder(embedder).mteb_model_meta
    assert meta.name == "embedrl/QwenVLBackbone"
    assert meta.modalities == ["text", "image", "video"]
    prompted = embedrl.mteb.encoder(embedder, instructions=True).mteb_model_meta
    assert len({meta.revision, prompted.revision}) == 2
    assert prompted.use_instructions
    assert meta.embed_dim == embedder.dim
    with pytest.raises(ConfigError, match="ORGANISATION/MODEL"):
        embedrl.mteb.encoder(embedder, name="tiny")
    with pytest.raises(ConfigError, match="an Embedder brings its Reasoner"):
        embedrl.mteb.encoder(embedder, device="cpu")


def test_without_mteb_it_says_so(embedder, monkeypatch):
    real = builtins.__import__

    def absent(name, *args, **kwargs):
        if name.partition(".")[0] == "mteb":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    for name in [name for name in sys.modules if name.partition(".")[0] == "mteb"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(ConfigError, match=r"run pip install 'embedrl\[mteb\]'"):
        embedrl.mteb.encoder(embedder)
