"""Vectors are computed once, and nothing that has changed meets those from before."""

import math
import os
import time

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from toy_embedder import ToyBackbone, ToyTokens

from embedrl.data.images import ImageFile
from embedrl.data.render import RenderOptions, render
from embedrl.errors import ConfigError, DataError, NonFiniteError
from embedrl.evaluation.identity import model_identity, weights_hash
from embedrl.evaluation.shards import read_shard
from embedrl.evaluation.vectors import EncodeOptions, VectorCache
from embedrl.inference.frozen_embedder import FrozenEmbedder
from embedrl.losses.maxsim import token_mask
from embedrl.models.lora import LoRAOptions
from embedrl.models.qwen_vl.backbone import QwenVLBackbone
from embedrl.tcot.parser import build
from embedrl.types import Modality, Side
from embedrl.utils.ragged import cat_rows

CPU = torch.device("cpu")
RAW = RenderOptions(tcot="none")
SIDES = [Side(text=f"side number {i} {'x' * (i % 7)}") for i in range(25)]


def cache(folder, backbone=None, options=RAW, **encode):
    encode = {"shard_size": 10, "batch_size": 4, "micro_batch_size": 3} | encode
    return VectorCache(folder, backbone or ToyBackbone(), options, CPU, EncodeOptions(**encode))


def embed(vectors, sides=SIDES):
    return torch.cat(list(vectors.embed(sides, vectors.hashes(sides), "toy/query").read()))


def test_vectors_are_those_of_the_frozen_embedder_in_order(tmp_path):
    names = [str(i) for i in range(len(SIDES))]
    expected = FrozenEmbedder(ToyBackbone(), RAW).embed(SIDES, names, CPU)
    vectors = cache(tmp_path)
    torch.testing.assert_close(embed(vectors), expected, rtol=0, atol=1e-6)
    assert vectors.computed == 25
    assert len(list(tmp_path.rglob("*.safetensors"))) == 3


def test_token_vectors_are_kept_without_padding(tmp_path):
    vectors = cache(tmp_path, ToyTokens())
    found = cat_rows(list(vectors.embed(SIDES, vectors.hashes(SIDES), "toy/query").read()))
    preprocessor = vectors.backbone.preprocessor()
    with torch.no_grad():
        expected = vectors.backbone.encode(preprocessor([render(side, RAW) for side in SIDES]))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    assert vectors.dimension == 16
    stored = [load_file(path) for path in tmp_path.rglob("*.safetensors")]
    assert sum(len(file["vectors"]) for file in stored) == int(token_mask(expected).sum()) < 75
    again = cache(tmp_path, ToyTokens())
    blocks = again.embed(SIDES, again.hashes(SIDES), "toy/query")
    assert torch.equal(cat_rows(list(blocks.read())), found)
    assert again.computed == 0


def test_a_second_time_nothing_is_computed(tmp_path):
    before = embed(cache(tmp_path))
    again = cache(tmp_path)
    assert torch.equal(embed(again), before)
    assert again.computed == 0


def test_finished_shards_are_kept_and_one_that_is_gone_is_made_again(tmp_path):
    before = embed(cache(tmp_path))
    sorted(tmp_path.rglob("*.safetensors"))[0].unlink()
    again = cache(tmp_path)
    torch.testing.assert_close(embed(again), before, rtol=0, atol=1e-6)
    assert 0 < again.computed <= 10


@pytest.mark.parametrize(
    ("backbone", "options"),
    [
        (ToyBackbone(seed=1), RAW),
        (ToyBackbone(scale=2.0), RAW),
        (ToyBackbone(), RenderOptions(tcot="full", on_missing_tcot="raw")),
        (ToyBackbone(), RenderOptions(tcot="none", max_evidence=3)),
        (ToyBackbone(), RenderOptions(tcot="none", cues="off")),
        (ToyBackbone(), RenderOptions(tcot="none", on_bad_tcot="lenient")),
    ],
    ids=["weights", "option", "tcot", "evidence", "cues", "lenient"],
)
def test_another_model_or_view_meets_no_vectors_from_before(backbone, options, tmp_path):
    embed(cache(tmp_path))
    other = cache(tmp_path, backbone, options)
    embed(other)
    assert other.computed == 25


def test_one_changed_weight_is_another_model(tmp_path):
    backbone = ToyBackbone()
    embed(cache(tmp_path, backbone))
    with torch.no_grad():
        backbone.net.bias[3] = math.nextafter(backbone.net.bias[3].item(), 1.0) + 1e-7
    other = cache(tmp_path, backbone)
    embed(other)
    assert other.computed == 25


def test_noise_of_training_is_no_other_view(tmp_path):
    embed(cache(tmp_path))
    again = cache(tmp_path, options=RenderOptions(tcot="none", jitter=60, drop_evidence=0.5))
    embed(again)
    assert again.computed == 0


@pytest.mark.parametrize("what", ["text", "tcot", "order"])
def test_a_changed_side_is_embedded_again(what, tmp_path):
    tcot = [build(Modality.TEXT, "a", "b", f"c{i}", keywords=["side"]).render() for i in range(2)]
    options = RenderOptions()
    sides = [side.with_tcot(tcot[0]) for side in SIDES]
    embed(cache(tmp_path, options=options), sides)
    changed = {
        "text": [Side(text="other", tcot=tcot[0]), *sides[1:]],
        "tcot": [sides[0].with_tcot(tcot[1]), *sides[1:]],
        "order": [sides[1], sides[0], *sides[2:]],
    }[what]
    other = cache(tmp_path, options=options)
    found = embed(other, changed)
    assert other.computed == 10, "the shard with the change, and no other"
    fresh = embed(cache(tmp_path / "fresh", options=options), changed)
    torch.testing.assert_close(found, fresh, rtol=0, atol=1e-6)


def test_a_picture_with_other_pixels_under_the_same_name_is_another_side(tmp_path):
    path = tmp_path / "a.png"
    Image.new("RGB", (8, 8), "red").save(path)
    sides = [Side(text="x", images=(ImageFile(str(path), name="a.png"),))]
    vectors = cache(tmp_path)
    before = vectors.hashes(sides)
    Image.new("RGB", (8, 8), "blue").save(path)
    os.utime(path, ns=(time.time_ns() + 10**9,) * 2)
    assert vectors.hashes(sides) != before


def test_a_file_with_too_few_rows_is_refused(tmp_path):
    embed(cache(tmp_path))
    path = sorted(tmp_path.rglob("*.safetensors"), key=lambda p: p.stat().st_size)[0]
    with pytest.raises(DataError, match=rf"{path.name}: broken vectors \(float32 \[5, 16\], not float32 \[10,"):
        read_shard(path, 10)


def test_a_vector_that_is_not_finite_is_named_and_not_kept(tmp_path):
    sides = [*SIDES[:12], Side(text="a ~ side"), *SIDES[12:]]
    with pytest.raises(NonFiniteError, match="toy/query 12: the vector is NaN"):
        embed(cache(tmp_path, ToyBackbone(poison="~")), sides)
    assert len(list(tmp_path.rglob("*.safetensors"))) == 1


def test_a_side_that_cannot_be_rendered_is_named(tmp_path):
    with pytest.raises(DataError, match="toy/query 1: the side is empty"):
        embed(cache(tmp_path), [Side(text="a"), Side()])


@pytest.mark.parametrize(("flag", "value"), [("shard_size", 0), ("batch_size", 0), ("num_workers", -1)])
def test_options_out_of_range(flag, value):
    with pytest.raises(ConfigError, match=f"--encode.{flag} is {value}"):
        EncodeOptions(**{flag: value})


# ---------------------------------------------------------------- identity


def test_the_hash_tells_names_shapes_types_and_bits_apart():
    def module(**tensors):
        out = torch.nn.Module()
        for name, value in tensors.items():
            out.register_buffer(name, value)
        return out

    zeros = torch.zeros(4)
    variants = [
        module(a=zeros),
        module(b=zeros),
        module(a=zeros.reshape(2, 2)),
        module(a=zeros.bfloat16()),
        module(a=zeros.double()),
        module(a=-zeros),
        module(a=zeros, b=zeros),
        module(a=torch.zeros(())),
        module(a=zeros.int()),
    ]
    hashes = [weights_hash(variant) for variant in variants]
    assert len(set(hashes)) == len(variants)
    assert hashes[0] == weights_hash(module(a=torch.zeros(8)[::2])), "the memory layout does not count"


def test_lora_counts_as_weights():
    backbone = QwenVLBackbone("embedrl:tiny", lora=LoRAOptions(r=2, alpha=4, dropout=0.0, scope="language"))
    backbone.build()
    before = weights_hash(backbone)
    adapter = next(p for name, p in backbone.named_parameters() if "lora_B" in name)
    with torch.no_grad():
        adapter[0, 0] += 1
    assert weights_hash(backbone) != before


def test_files_count_by_content_wherever_they_lie(tmp_path, monkeypatch):
    def identity(folder, text):
        folder.mkdir(exist_ok=True)
        (folder / "config.json").write_text("{}")
        (folder / "tokenizer.json").write_text(text)
        (folder / "model.safetensors").write_text(str(folder))  # what is in memory counts
        backbone = ToyBackbone()
        backbone.build()
        backbone.poison = str(folder)
        return model_identity(backbone, CPU)

    assert identity(tmp_path / "a", "one") == identity(tmp_path / "b", "one")
    assert identity(tmp_path / "a", "one") != identity(tmp_path / "b", "two")
