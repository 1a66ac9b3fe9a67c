"""Late interaction on a vision-language model: its vectors, its export, and what refuses it."""

import json
import shutil

import pytest
import torch
from plain_vlm import CHATS, families
from qwen_helpers import EMB, picture, text, user
from sklearn.cluster import AgglomerativeClustering
from torch.nn import functional
from transformers import AutoModel, AutoProcessor

from embedrl.distributed.rank0_loading import inventory
from embedrl.errors import CheckpointError, ConfigError, DataError
from embedrl.inference.frozen_embedder import FrozenEmbedder
from embedrl.losses.maxsim import maxsim, token_mask
from embedrl.mining.mine import mine
from embedrl.models.exported import load_backbone
from embedrl.models.late_interaction import LateInteraction
from embedrl.models.late_interaction_files import HEAD, OPTIONS_FILE
from embedrl.models.lora import LoRAOptions
from embedrl.models.merging import merge_folders
from embedrl.models.open_clip.backbone import OpenClipBackbone
from embedrl.models.qwen_vl.backbone import QwenVLBackbone
from embedrl.models.vlm.backbone import VLMBackbone

TINY = "embedrl:tiny"


def built(backbone=None, **options):
    model = LateInteraction(backbone or QwenVLBackbone(TINY), **{"dim": 8, "budget": None, **options})
    torch.manual_seed(0)
    model.build()
    return model.eval()


@torch.no_grad()
def sides_of(model, chats=CHATS):
    """The token vectors of each chat, without padding."""
    vectors = model.encode(model.preprocessor()(chats))
    return [side[mask] for side, mask in zip(vectors, token_mask(vectors), strict=True)]


@torch.no_grad()
def plain_sides(folder, head, chats):
    """The same by plain transformers, one chat at a time: every token up to `<emb>` through the matrix."""
    processor, model = AutoProcessor.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    emb, sides = processor.tokenizer.convert_tokens_to_ids("<emb>"), []
    for chat in chats:
        inputs = processor.apply_chat_template(chat, tokenize=True, return_dict=True, return_tensors="pt")
        end = inputs["input_ids"][0].tolist().index(emb) + 1
        hidden = model(**inputs).last_hidden_state[0, :end]
        sides.append(functional.normalize(hidden @ head.T, dim=-1))
    return sides


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A folder, its projection, and the vectors of its model, pooled to twelve."""
    folder, model = tmp_path_factory.mktemp("late"), built(budget=12)
    model.export(folder)
    return folder, model.head.weight.detach(), sides_of(model)


def check_same(got, expected):
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


@pytest.mark.parametrize("side", ["left", "right"])
def test_vectors_are_those_of_plain_transformers_alone_and_padded(side, exported):
    folder, head, _ = exported
    chats = [CHATS[0], CHATS[1], [user({"type": "image", "image": picture(2)}), EMB]]
    expected = plain_sides(folder, head, chats)
    model = LateInteraction(QwenVLBackbone(str(folder), padding_side=side), dim=8, budget=None)
    model.build()
    check_same(sides_of(model.eval(), chats), expected)
    for chat, one in zip(chats, expected, strict=True):
        check_same(sides_of(model, [chat]), [one])


def test_a_side_over_the_budget_is_pooled_and_others_are_not(exported):
    _, _, pooled = exported
    for whole, few in zip(sides_of(built()), pooled, strict=True):
        if len(whole) > 12:
            labels = torch.from_numpy(AgglomerativeClustering(12, linkage="ward").fit_predict(whole.double().numpy()))
            means = [functional.normalize(whole[labels == group].mean(0), dim=0) for group in labels.unique()]
            assert len(few) == 12
            assert ((few @ torch.stack(means).T).amax(1) > 1 - 1e-6).all()
        else:
            torch.testing.assert_close(few, whole, rtol=0, atol=1e-6)


@families()
def test_every_family_gives_a_vector_a_token(name, tmp_path):
    backbone = VLMBackbone(f"{TINY}/{name}")
    model = built(backbone, budget=9, pooling="sequential")
    alone = [sides_of(model, [chat])[0] for chat in CHATS]
    check_same(sides_of(model), alone)
    assert max(map(len, alone)) == 9
    model.export(tmp_path)
    check_same(sides_of(load_backbone(str(tmp_path))), alone)


def test_an_exported_folder_gives_the_same_vectors(exported):
    folder, _, expected = exported
    model = load_backbone(str(folder))
    assert isinstance(model, LateInteraction)
    assert (model.dim, model.budget, model.pooling) == (8, 12, "hierarchical")
    for a, b in zip(sides_of(model), expected, strict=True):
        assert ((a * b).sum(1) > 0.9999).all()


def test_an_adapter_brings_its_projection(tmp_path):
    model = built(QwenVLBackbone(TINY, lora=LoRAOptions(r=2)))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    model.export(tmp_path, merge=False)
    assert not (tmp_path / "modules.json").exists()
    for a, b in zip(sides_of(load_backbone(str(tmp_path))), sides_of(model), strict=True):
        assert ((a * b).sum(1) > 0.99999).all()


def test_on_meta_it_is_the_same_model():
    model = LateInteraction(QwenVLBackbone(TINY), dim=8)
    model.build_on_meta()
    assert inventory(model) == inventory(built())
    assert all(p.device.type == "meta" for p in model.parameters())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LateInteraction(QwenVLBackbone(TINY), budget=0), r"backbone\.budget is 0: give 1 or more"),
        (lambda: LateInteraction(QwenVLBackbone(TINY), budget=-3), r"backbone\.budget is -3"),
        (lambda: LateInteraction(QwenVLBackbone(TINY), dim=0), r"backbone\.dim is 0: give 1 or more"),
        (lambda: LateInteraction(OpenClipBackbone("ViT-B-32")), "OpenClipBackbone, which gives no hidden states"),
        (lambda: FrozenEmbedder(LateInteraction(QwenVLBackbone(TINY))), "FrozenEmbedder: a LateInteraction gives one"),
        (lambda: mine([], LateInteraction(QwenVLBackbone(TINY)), None), "embedrl mine: a LateInteraction gives one"),
    ],
)
def test_bad_options_and_users_are_refused_at_once(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_another_length_than_the_folders_is_refused(exported):
    with pytest.raises(CheckpointError, match=r"its projection is of \[8, .*set backbone.dim to 8"):
        LateInteraction(QwenVLBackbone(str(exported[0])), dim=9).build()


def test_such_models_are_not_merged(exported, tmp_path):
    with pytest.raises(CheckpointError, match="gives one vector a token"):
        merge_folders([exported[0], exported[0]], [0.5, 0.5], tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "broken"),
        (json.dumps({"format": 1, "dim": 8}), "broken"),
        (json.dumps({"format": 2, "dim": 8, "budget": 4, "pooling": "sequential"}), "of format 2"),
        (json.dumps({"format": 1, "dim": 8, "budget": 0, "pooling": "sequential"}), "budget is 0"),
    ],
)
def test_a_broken_file_is_named(content, message, exported, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(exported[0], folder)
    (folder / OPTIONS_FILE).write_text(content)
    with pytest.raises(CheckpointError, match=message):
        load_backbone(str(folder))


def test_a_missing_projection_is_named(exported, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(exported[0], folder)
    (folder / HEAD / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="cannot read the projection"):
        load_backbone(str(folder))


def test_a_chat_without_the_mark_is_refused():
    model = built()
    with pytest.raises(DataError, match="no <emb>"):
        sides_of(model, [[user(text("the red star"))]])


@pytest.mark.slow
@pytest.mark.parametrize("backbone", [lambda: QwenVLBackbone(TINY), lambda: VLMBackbone(f"{TINY}/gemma3")])
def test_sentence_transformers_gives_the_same_vectors(backbone, tmp_path):
    from sentence_transformers import MultiVectorEncoder

    from embedrl.inference.sentence_module import SentenceTransformersModule

    model = built(backbone())
    model.export(tmp_path)
    inputs = ["the red star", {"image": picture(0)}, {"image": picture(1, (100, 60)), "text": "find it"}]
    encoder = MultiVectorEncoder(str(tmp_path), device="cpu")
    ours = MultiVectorEncoder(modules=[SentenceTransformersModule(str(tmp_path))], device="cpu")
    exact = ours.encode_document(inputs)
    for got, expected in zip(encoder.encode_document(inputs), exact, strict=True):
        assert got.shape == expected.shape
        assert ((got * expected).sum(1) > 0.9999).all()
    query = encoder.encode_query(inputs[:1])
    padded = torch.nn.utils.rnn.pad_sequence(exact, batch_first=True)
    torch.testing.assert_close(encoder.similarity(query, exact), maxsim(padded[:1], padded), rtol=0, atol=1e-5)
    pooled = MultiVectorEncoder(modules=[SentenceTransformersModule(LateInteraction(backbone(), 8, 5))], device="cpu")
    assert max(map(len, pooled.encode_document(inputs))) == 5
