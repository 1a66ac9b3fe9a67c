import json
import pickle
import random

import pytest
import torch
from peft import PeftModel
from qwen_helpers import EMB, image, text, user, video, write_checkpoint
from safetensors.torch import load_file, save_file
from torch.nn import functional
from transformers import AutoModelForImageTextToText, AutoProcessor

from embedrl.errors import CheckpointError, ConfigError, DataError
from embedrl.models.lora import SCOPES, LoRAOptions
from embedrl.models.qwen_vl.backbone import QwenVLBackbone
from embedrl.models.qwen_vl.positions import mrope_positions
from embedrl.models.qwen_vl.preprocess import PixelBudget

CHATS = [
    [user(image(0), text("the red star")), EMB],
    [user(text("a text alone , rather longer than the others , to make them pad")), EMB],
    [user(video(1), text("what comes after ?")), EMB],
    [user(image(2), image(3, (144, 60)), text("\n<thinking>"), image(4, evidence=True), text("</thinking>")), EMB],
    [user(video(5, frames=4), image(6, evidence=True)), EMB],
]


def built(path, **options):
    backbone = QwenVLBackbone(str(path), **options)
    backbone.build()
    return backbone.eval()


@torch.no_grad()
def vectors(backbone, chats=CHATS):
    return backbone(backbone.preprocessor()(chats))


@pytest.fixture(scope="module")
def backbone(checkpoint):
    return built(checkpoint)


@torch.no_grad()
def reference(folder, chat):
    """The embedding of one chat by transformers alone."""
    processor = AutoProcessor.from_pretrained(folder)
    model = AutoModelForImageTextToText.from_pretrained(folder).eval()
    parts = chat[0]["content"]
    images = [part["image"] for part in parts if part["type"] == "image"]
    videos = [part["video"] for part in parts if part["type"] == "video"]
    inputs = processor(
        text=[processor.apply_chat_template(chat, tokenize=False)],
        images=[images] if images else None,
        videos=videos or None,
        video_metadata=[{"total_num_frames": len(v), "fps": 2.0, "frames_indices": list(range(len(v)))} for v in videos]
        or None,
        do_sample_frames=False,
        return_tensors="pt",
    )
    hidden = model.model(**inputs).last_hidden_state
    [emb_id] = model.config.emb_token_ids
    assert processor.tokenizer.convert_tokens_to_ids("<emb>") == emb_id
    return functional.normalize(hidden[inputs["input_ids"] == emb_id][-1], dim=-1)


def test_vectors_equal_plain_transformers_on_an_exported_checkpoint(backbone, tmp_path):
    backbone.export(tmp_path)
    expected = torch.stack([reference(tmp_path, chat) for chat in CHATS])
    torch.testing.assert_close(vectors(backbone), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(vectors(built(tmp_path)), expected, atol=1e-5, rtol=0)


def test_vectors_are_float32_of_length_one_and_differ(backbone):
    found = vectors(backbone)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.norm(dim=1), torch.ones(len(CHATS)))
    assert (found @ found.T - torch.eye(len(CHATS))).max() < 0.999


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_side_and_batch_composition_leave_vectors_alone(checkpoint, backbone, side):
    alone = torch.cat([vectors(backbone, [chat]) for chat in CHATS])
    other = built(checkpoint, padding_side=side)
    torch.testing.assert_close(vectors(other), alone, atol=1e-5, rtol=0)
    order = list(range(len(CHATS)))
    random.Random(0).shuffle(order)
    torch.testing.assert_close(vectors(other, [CHATS[i] for i in order]), alone[order], atol=1e-5, rtol=0)


@pytest.mark.parametrize("side", ["left", "right"])
def test_positions_equal_those_of_transformers(checkpoint, side):
    backbone = built(checkpoint, padding_side=side)
    inputs = backbone.preprocessor()(CHATS)
    grids = {k: inputs[k] for k in ("image_grid_thw", "video_grid_thw")}
    expected, _ = backbone.core.get_rope_index(
        inputs["input_ids"], inputs["mm_token_type_ids"], attention_mask=inputs["attention_mask"], **grids
    )
    assert torch.equal(mrope_positions(inputs, 2), expected)


def test_the_last_emb_counts_and_none_is_an_error(backbone):
    once = [user(text("a <emb> b")), EMB]
    torch.testing.assert_close(vectors(backbone, [once, CHATS[0]])[1], vectors(backbone, [CHATS[0]])[0])
    preprocess = backbone.preprocessor()
    inputs = preprocess([once])
    at = (inputs["input_ids"] == backbone.emb_token_id).nonzero()[-1, 1]
    hidden = backbone.hidden_states(inputs)[0, at]
    torch.testing.assert_close(vectors(backbone, [once])[0], functional.normalize(hidden, dim=0))
    with pytest.raises(DataError, match=r"rows \[1\].*<emb>"):
        backbone(preprocess([once, [user(text("no token"))]]))


def test_the_lm_head_is_not_computed(backbone):
    calls = []
    handle = backbone.network.lm_head.register_forward_hook(lambda *_: calls.append(1))
    vectors(backbone, CHATS[:1])
    handle.remove()
    assert not calls


@pytest.mark.parametrize(
    ("name", "rows", "added", "recorded", "grows"),
    [
        ("no room: the matrix grows", "exact", (), None, True),
        ("the padded vocabulary has room", "padded", (), None, False),
        ("the tokenizer knows <emb> already", "padded", ("<emb>",), None, False),
        ("and the config records it", "padded", ("<emb>",), "right", False),
    ],
)
def test_emb_token(tmp_path, name, rows, added, recorded, grows):
    size = len(AutoProcessor.from_pretrained(write_checkpoint(tmp_path, None, added)).tokenizer)
    rows = size if rows == "exact" else size + 7
    changes = {"emb_token_ids": [size - 1]} if recorded else {}
    write_checkpoint(tmp_path, rows, added, **changes)
    before = AutoModelForImageTextToText.from_pretrained(tmp_path).get_input_embeddings().weight
    backbone = built(tmp_path)
    after = backbone.network.get_input_embeddings().weight
    emb_id = size - 1 if added else size
    assert backbone.emb_token_id == emb_id
    assert backbone.network.config.emb_token_ids == [emb_id]
    assert after.shape[0] == rows + grows
    assert torch.equal(after[:size], before[:size])
    assert backbone.network.lm_head.weight is after
    if added:  # a trained row is never touched
        assert torch.equal(after[emb_id], before[emb_id])
    else:
        torch.testing.assert_close(after[emb_id], before[:size].mean(0))
    torch.testing.assert_close(vectors(built(tmp_path)), vectors(backbone), atol=0, rtol=0)


def test_a_recorded_emb_id_that_the_tokenizer_contradicts_is_an_error(tmp_path):
    write_checkpoint(tmp_path, emb_token_ids=[7])
    with pytest.raises(CheckpointError, match="emb_token_ids"):
        built(tmp_path)


@pytest.mark.parametrize(
    "scope", ["language", "language-attention", "language+merger", "language+vision", "all-linear"]
)
def test_lora_scopes_adapt_what_they_name(checkpoint, scope):
    backbone = built(checkpoint, lora=LoRAOptions(r=2, alpha=4, scope=scope))
    trainable = {name for name, p in backbone.named_parameters() if p.requires_grad}
    assert all(".lora_" in name for name in trainable)
    owners = {part for name in trainable for part in ("self_attn", "mlp", "blocks", "merger") if f".{part}" in name}
    vision = any("visual.blocks" in name for name in trainable)
    assert any("language_model" in name for name in trainable)
    assert vision == (scope in ("language+vision", "all-linear"))
    assert ("merger" in owners) == (scope in ("language+merger", "all-linear"))
    assert any("language_model" in n and ".mlp." in n for n in trainable) == (scope != "language-attention")
    assert len([n for n in trainable if "language_model" in n]) == 4 * 2 * (4 if scope == "language-attention" else 7)


def test_lora_errors(checkpoint, monkeypatch):
    with pytest.raises(ConfigError, match="'vison' is unknown"):
        LoRAOptions(scope="language+vison")
    monkeypatch.setitem(SCOPES, "language", "no_such_layer")
    with pytest.raises(ConfigError, match="matches no linear layer"):
        built(checkpoint, lora=LoRAOptions())
    with pytest.raises(ConfigError, match="train_vision"):
        QwenVLBackbone(str(checkpoint), lora=LoRAOptions(), train_vision=True)


@pytest.mark.parametrize("train_vision", [False, True])
def test_without_lora_the_weights_train_and_vision_is_frozen_by_default(checkpoint, train_vision):
    backbone = built(checkpoint, train_vision=train_vision)
    frozen = {n for n, p in backbone.named_parameters() if not p.requires_grad}
    assert any("visual" in n for n in frozen) != train_vision
    assert all("visual" in n for n in frozen)


@pytest.mark.parametrize("lora", [None, LoRAOptions(r=2, dropout=0.0)])
def test_gradient_checkpointing_leaves_gradients_alone(checkpoint, lora):
    def gradients(flag):
        torch.manual_seed(0)
        model = built(checkpoint, lora=lora, gradient_checkpointing=flag).train()
        torch.manual_seed(0)
        for name, p in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(p, std=0.1)
        (model(model.preprocessor()(CHATS[:3])) ** 3).sum().backward()
        return {n: p.grad for n, p in model.named_parameters() if p.grad is not None}

    plain, checkpointed = gradients(False), gradients(True)
    assert plain
    assert plain.keys() == checkpointed.keys()
    for name in plain:
        torch.testing.assert_close(plain[name], checkpointed[name], msg=name)


def test_merged_export_equals_the_adapter_and_the_adapter_export_loads_in_peft(checkpoint, tmp_path):
    backbone = built(checkpoint, lora=LoRAOptions(r=2, alpha=8))
    for name, p in backbone.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(p, std=0.2)
    expected = vectors(backbone)
    assert (expected - vectors(built(checkpoint))).abs().max() > 1e-3
    backbone.export(tmp_path / "merged")
    torch.testing.assert_close(vectors(backbone), expected, atol=0, rtol=0)
    torch.testing.assert_close(vectors(built(tmp_path / "merged")), expected, atol=1e-5, rtol=0)
    backbone.export(tmp_path / "adapter", merge=False)
    assert not list((tmp_path / "adapter").glob("model*.safetensors"))
    base = built(checkpoint)
    base.net = PeftModel.from_pretrained(base.network, tmp_path / "adapter").eval()
    torch.testing.assert_close(vectors(base), expected, atol=1e-6, rtol=0)
    with pytest.raises(ConfigError, match="adapter alone"):
        built(checkpoint).export(tmp_path / "none", merge=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("drop", r"missing keys.*language_model\.norm\.weight"),
        ("extra", r"unexpected keys.*stranger"),
        ("shape", r"mismatched keys.*language_model\.norm\.weight"),
        ("pickle", "cannot read the weights"),
        ("config", "model_type is 'llama'"),
        ("folder", "no such folder"),
    ],
)
def test_broken_checkpoints_are_named(tmp_path, change, message):
    write_checkpoint(tmp_path)
    weights = tmp_path / "model.safetensors"
    tensors, norm = load_file(weights), "model.language_model.norm.weight"
    if change == "drop":
        del tensors[norm]
    elif change == "extra":
        tensors["stranger"] = torch.ones(1)
    elif change == "shape":
        tensors[norm] = torch.ones(3)
    save_file(tensors, weights, metadata={"format": "pt"})
    if change == "pickle":
        weights.unlink()
        torch.save(tensors, tmp_path / "pytorch_model.bin")
    elif change == "config":
        config = json.loads((tmp_path / "config.json").read_text())
        (tmp_path / "config.json").write_text(json.dumps(config | {"model_type": "llama"}))
    path = tmp_path / "nowhere" if change == "folder" else tmp_path
    with pytest.raises(CheckpointError, match=message):
        built(path)


def test_the_preprocessor_pickles_without_weights_and_agrees_with_itself(backbone):
    preprocess = backbone.preprocessor()
    data = pickle.dumps(preprocess)
    assert len(data) < 1e6
    ours, theirs = preprocess(CHATS), pickle.loads(data)(CHATS)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[k], theirs[k]) for k in ours)


def test_budgets_are_separate_for_images_evidence_and_frames(checkpoint):
    side = 64 * 64
    backbone = QwenVLBackbone(
        str(checkpoint),
        image_pixels=PixelBudget(32**2, 32**2),
        evidence_pixels=PixelBudget(side, side),
        frame_pixels=PixelBudget(16**2, 16**2),
    )
    chat = [user(image(), image(evidence=True), video(frames=2)), EMB]
    inputs = backbone.preprocessor()([chat])
    assert inputs["image_grid_thw"].tolist() == [[1, 4, 4], [1, 8, 8]]
    assert inputs["video_grid_thw"].tolist() == [[2, 2, 2]]
    assert backbone.preprocessor().length(chat) == pytest.approx(int(inputs["attention_mask"].sum()), abs=12)
    with pytest.raises(ConfigError, match="pixel budget"):
        PixelBudget(10, 5)


NARROW, WIDE, FRAMES = PixelBudget(32**2, 32**2), PixelBudget(32**2, 96**2), PixelBudget(64**2, 64**2 + 500)


@pytest.mark.parametrize("merge", [True, False], ids=["merged", "adapter"])
def test_budgets_are_those_of_the_training_after_an_export(checkpoint, tmp_path, merge):
    def budgets(path, **options):
        preprocessor = QwenVLBackbone(str(path), **options).preprocessor()
        return preprocessor.images, preprocessor.evidence, preprocessor.frames

    chosen = {"image_pixels": NARROW, "evidence_pixels": WIDE, "frame_pixels": FRAMES}
    built(checkpoint, lora=LoRAOptions(r=2), **chosen).export(tmp_path / "all", merge)
    assert budgets(tmp_path / "all") == (NARROW, WIDE, FRAMES)
    assert budgets(tmp_path / "all", evidence_pixels=NARROW, frame_pixels=WIDE) == (NARROW, NARROW, WIDE)
    # What was not chosen is not fixed: evidence follows the pictures, frames the processor.
    built(checkpoint, lora=LoRAOptions(r=2)).export(tmp_path / "none", merge)
    assert budgets(tmp_path / "none") == budgets(checkpoint)
    assert budgets(tmp_path / "none", image_pixels=WIDE)[1] == WIDE


@pytest.mark.parametrize(
    ("chat", "message"),
    [
        ([user(text("a word " * 40)), EMB], "'<|im_start|>user.*more than max_length=30"),
        ([user(text("see <|image_pad|> here")), EMB], "holds <|image_pad|>"),
        ([user()], "without content"),
        ([user(image(size=(1000, 2))), EMB], "a picture of 1000x2"),
    ],
)
def test_chats_that_cannot_be_represented_are_errors(checkpoint, chat, message):
    preprocess = QwenVLBackbone(str(checkpoint), max_length=30).preprocessor()
    with pytest.raises(DataError, match=message.replace("|", r"\|")):
        preprocess([chat])
