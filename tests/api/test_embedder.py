"""The Embedder of a program: the vectors of validation and evaluation, bad items, T-CoTs, the fingerprint."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from fake_data import IMAGE_TCOT
from PIL import Image

import embedrl
from embedrl.api.embedder import Embedder
from embedrl.api.items import to_side
from embedrl.data.collate import EncodeCollator
from embedrl.data.images import ImageFile
from embedrl.data.render import RenderOptions
from embedrl.data.side_dataset import EncodeDataset
from embedrl.data.world import WorldTasks
from embedrl.errors import CheckpointError, ConfigError, DataError, NonFiniteError
from embedrl.evaluation.vectors import EncodeOptions, VectorCache
from embedrl.inference.frozen_embedder import LENIENT, encode
from embedrl.models.qwen_vl.backbone import QwenVLBackbone
from embedrl.types import RetrievalTask, Side

CPU = torch.device("cpu")
RED, BLUE = Image.new("RGB", (64, 48), "red"), Image.new("RGB", (64, 48), "blue")


@pytest.fixture(scope="module")
def embedder(checkpoint):
    return Embedder.from_pretrained(checkpoint, device="cpu", micro_batch_size=4)


@pytest.fixture(scope="module")
def task():
    return WorldTasks(split="val", size=4).tasks()[0]


def test_vectors_are_those_of_validation_and_of_eval(embedder, task, tmp_path):
    backbone, sides = embedder.backbone, [*task.queries, *task.candidates]
    ours = embedder.encode(sides)
    assert ours.shape == (len(sides), embedder.dim)
    assert ours.dtype == np.float32
    cache = VectorCache(tmp_path, backbone, LENIENT, CPU, EncodeOptions(micro_batch_size=3))
    evaluated = torch.cat(list(cache.embed(sides, cache.hashes(sides, "x"), "x").read()))
    np.testing.assert_allclose(ours, evaluated, atol=1e-5)
    validation = RenderOptions(on_missing_tcot="raw")
    batches = EncodeDataset([task], validation, batch_size=64)
    batch = EncodeCollator(backbone.preprocessor(), 2)(batches[0])
    with torch.no_grad():
        validated = encode(backbone, batch.micro_batches, batch.order, CPU)
    for places, vector in zip(batch.items, validated, strict=True):
        for place in places:
            row = place.position + (0 if place.kind == "query" else len(task.queries))
            np.testing.assert_allclose(ours[row], vector, atol=1e-5)


def test_the_order_is_that_of_the_items_however_they_are_batched(embedder):
    items = ["a red star", RED, {"text": "what is it", "image": BLUE}, *["a"] * 30, {"video": [RED, BLUE]}, BLUE]
    vectors = embedder.encode(iter(items))  # of differing lengths, in two parts
    for row in (0, 1, 2, 33, 34):
        np.testing.assert_allclose(vectors[row], embedder.encode(items[row]), atol=1e-5)
    np.testing.assert_allclose(vectors[3:32], vectors[4:33], atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    similar = embedder.similarity(vectors[:2], vectors[:3])
    np.testing.assert_allclose(similar, [[a @ b for b in vectors[:3]] for a in vectors[:2]], atol=1e-6)
    assert torch.equal(embedder.encode(items[:3], as_tensor=True), torch.from_numpy(vectors[:0]).new_tensor(
        embedder.encode(items[:3])))  # fmt: skip


def test_one_item_gives_one_vector_and_none_gives_none(embedder):
    assert embedder.encode("a red star").shape == (embedder.dim,)
    assert embedder.encode([]).shape == (0, embedder.dim)


def test_an_instruction_stands_in_front_of_the_text(embedder):
    one = embedder.encode(["star", {"text": "star", "image": RED}], instruction="find the picture:")
    two = embedder.encode(["find the picture: star", {"text": "find the picture: star", "image": RED}])
    np.testing.assert_array_equal(one, two)


def test_a_text_may_spell_what_a_model_reads_as_marks(embedder):
    marked = embedder.encode("a <|image_pad|> b <emb>")
    np.testing.assert_array_equal(marked, embedder.encode("a < |image_pad|> b < emb>"))


def test_a_tcot_and_its_crops_are_read_as_in_training(embedder, tmp_path):
    RED.save(tmp_path / "red.png")
    side = Side(images=(ImageFile(str(tmp_path / "red.png")),), tcot=IMAGE_TCOT)
    vectors = embedder.encode([RED, side, {"image": RED, "tcot": IMAGE_TCOT}], tcots=[IMAGE_TCOT, None, None])
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-5)
    np.testing.assert_allclose(vectors[0], vectors[2], atol=1e-5)
    assert np.abs(vectors[0] - embedder.encode(RED)).max() > 1e-3
    thought = embedrl.Thought(side)
    np.testing.assert_array_equal(vectors[0], embedder.encode([RED, side], tcots=[thought, None])[0])


def test_a_bad_item_is_named_or_skipped(embedder, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no picture")
    items = ["a", tmp_path / "broken.png", "gone.png", "b", 3]
    for bad, message in ((1, "cannot open picture"), (2, "'gone.png' ends like a file"), (4, "an item of type int")):
        with pytest.raises(DataError, match=f"item 1: {message}"):
            embedder.encode(["a", items[bad]])
    result = embedder.encode(items, on_bad="skip")
    assert result.kept == [0, 3]
    assert list(result.bad) == [1, 2, 4]
    assert all(message.startswith(f"item {position}: ") for position, message in result.bad.items())
    np.testing.assert_allclose(result.vectors, embedder.encode(["a", "b"]), atol=1e-5)
    nothing = embedder.encode(["gone.png"], on_bad="skip")
    assert (nothing.vectors.shape, nothing.kept) == ((0, embedder.dim), [])


def test_a_vector_that_is_not_finite_is_an_error(checkpoint):
    backbone = QwenVLBackbone(str(checkpoint))
    backbone.build()
    embedder = Embedder(backbone, device="cpu")
    with torch.no_grad():
        backbone.core.language_model.norm.weight.fill_(float("nan"))
    with pytest.raises(NonFiniteError, match="item 0: the vector is NaN or infinite"):
        embedder.encode("a")


def test_the_fingerprint_is_of_weights_and_reading(embedder, checkpoint):
    again = Embedder.from_pretrained(str(checkpoint), device="cpu")
    assert again.fingerprint == embedder.fingerprint
    other = Embedder(embedder.backbone, device="cpu", render=RenderOptions(tcot="none"))
    assert other.fingerprint != embedder.fingerprint
    with torch.no_grad():
        again.backbone.core.language_model.norm.weight.mul_(1.01)
    assert Embedder(again.backbone, device="cpu").fingerprint != embedder.fingerprint
    half = Embedder.from_pretrained(str(checkpoint), device="cpu", dtype="bfloat16")
    widened = Embedder(half.backbone.float(), device="cpu").fingerprint
    assert Embedder.from_pretrained(str(checkpoint), device="cpu", dtype="bfloat16").fingerprint == widened


WRONG = {
    "device": ({"device": "abacus"}, "torch knows none of that name"),
    "no GPU": ({"device": "cuda"}, "torch finds no GPU here"),
    "dtype": ({"dtype": "float8"}, "give auto, float32 or bfloat16"),
    "micro batch": ({"micro_batch_size": 0}, "micro_batch_size is 0"),
    "frames": ({"num_frames": 0}, "num_frames is 0"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_option_is_one_line(case, checkpoint):
    options, message = WRONG[case]
    if case == "no GPU" and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(ConfigError, match=message):
        Embedder.from_pretrained(checkpoint, **options)


def test_wrong_arguments_of_encode(embedder):
    with pytest.raises(ConfigError, match="this Embedder has no Reasoner"):
        embedder.encode("a", reason=True)
    with pytest.raises(ConfigError, match="role 'document': give one of query, target"):
        embedder.encode("a", role="document")
    with pytest.raises(ConfigError, match="1 tcots for 2 items"):
        embedder.encode(["a", "b"], tcots=["x"])
    with pytest.raises(CheckpointError, match=r"^nothing: no such folder, and on the Hub cannot read config\.json"):
        Embedder.from_pretrained("nothing")


def test_evaluate_scores_tasks_and_resumes(embedder, tmp_path, capsys):
    words = ["a red star", "a blue moon", "a green leaf"]
    pictures = [to_side(picture) for picture in (RED, BLUE, Image.new("RGB", (48, 64), "green"))]
    task = RetrievalTask("colours", [Side(word) for word in words], pictures, [{0: 1}, {1: 1}, {2: 1}])
    report = embedrl.evaluate(embedder, task, out=tmp_path / "scores")
    (result,) = report.sets
    assert (result.name, result.queries) == (task.name, len(task.queries))
    queries, candidates = embedder.encode(list(task.queries)), embedder.encode(list(task.candidates))
    scores = embedder.similarity(queries, candidates)
    hits = scores.argmax(1) == np.arange(3)
    assert result.metrics["hit@1"] == pytest.approx(np.mean(hits))
    assert embedrl.evaluate(embedder, [task], out=tmp_path / "scores").sets == report.sets
    with pytest.raises(ConfigError, match="holds an evaluation with another"):
        embedrl.evaluate(embedder, replace(task, qrels=[{1: 1}] * 3), out=tmp_path / "scores")
