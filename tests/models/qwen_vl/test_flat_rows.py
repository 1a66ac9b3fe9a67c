import itertools
import json
from zlib import crc32

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from qwen_helpers import EMB, image, text, user, video
from torch.nn.functional import softmax

from embedrl.models.attention_mask import SHARED, block_mask
from embedrl.models.lora import LoRAOptions
from embedrl.models.qwen_vl import flat_attention
from embedrl.models.qwen_vl.backbone import QwenVLBackbone
from embedrl.models.qwen_vl.flat_attention import GROUPED, AttentionGroups, Text
from embedrl.models.qwen_vl.flat_rows import FULL, FlatRow, is_sparse
from embedrl.models.qwen_vl.reasoner import QwenVLReasoner

LONG = text("a text alone , rather longer than the others , to make them pad, and longer still than it has been so far")
CHATS = [
    [user(image(0), text("the red star")), EMB],
    [user(LONG), EMB],
    [user(video(1), text("what comes after ?")), EMB],
    [user(image(2), image(3, (144, 60)), text("\n<thinking>"), image(4, evidence=True), text("</thinking>")), EMB],
    [user(text("short")), EMB],
]
SIDES = [
    [[user(image(seed), text("the question"), *parts), EMB] for parts in ends]
    for seed, ends in (
        (5, [(text("red"),), (text("a blue star"), image(6, (48, 48), evidence=True)), (LONG,)]),
        (7, [(text("one"),), (text("two and three"),)]),
    )
]
BRANCHES = [
    [
        [user(image(8), text("why ?"), text("because")), EMB],
        [user(image(8), text("why ?"), text("because it"), LONG), EMB],
    ],
    [[user(image(8), text("why ?"), text("since red")), EMB]],
]
PROMPTS = [[user(image(9), text("what is this ?"))], [user(text("and this , a longer question without a picture ?"))]]
REPLIES = [[[60, 61, 62, 63], [64], [65, 66]], [[67, 68, 69, 70, 71, 72], [73, 74]]]


def built(path, cls=QwenVLBackbone, **options):
    """A model whose adapters, if any, do something."""
    model = cls(str(path), **options)
    model.build()
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(crc32(name.encode())))
    return model.eval()


def cases(model, shape):
    """Batches; of each the tokens that are read, and of each token its text alone and its place in that."""
    preprocess = model.preprocessor()
    if shape in ("right", "left"):
        inputs, alone = preprocess(CHATS), [preprocess([chat]) for chat in CHATS]
        read = [(row, at) for row, one in enumerate(alone) for at in (3, one["input_ids"].shape[1] - 1)]
        width = inputs["input_ids"].shape[1]
        first = inputs["attention_mask"].argmax(1).tolist()
        yield (
            inputs,
            torch.tensor([row * width + first[row] + at for row, at in read]),
            [(alone[r], at) for r, at in read],
        )
    elif shape in ("groups", "bundles"):
        groups = SIDES if shape == "groups" else None
        batches, order = preprocess.groups(groups, 32) if groups else preprocess.bundles([BRANCHES], 32)
        chats = [c for g in groups for c in g] if groups else [c for bundle in BRANCHES for c in bundle]
        order = iter(order.tolist())
        for inputs in batches:
            alone = [preprocess([chats[next(order)]]) for _ in inputs["sources"]]
            places = [int((one["input_ids"][0] == model.emb_token_id).nonzero()[-1]) for one in alone]
            yield inputs, inputs["sources"], list(zip(alone, places, strict=True))
    else:
        inputs, expected = model.pack(preprocess.prompts(PROMPTS), REPLIES), []
        for chat, replies in zip(PROMPTS, REPLIES, strict=True):
            for reply in replies:
                one = preprocess.prompts([chat])
                length, rest = one["input_ids"].shape[1], torch.tensor([reply[:-1]], dtype=torch.long)
                for name, fill in (
                    ("input_ids", rest),
                    ("attention_mask", rest * 0 + 1),
                    ("mm_token_type_ids", rest * 0),
                ):
                    one[name] = torch.cat([one[name], fill], 1)
                expected += [(one, length - 1 + step) for step in range(len(reply))]
        yield inputs, inputs["sources"][inputs["labels"] != -100], expected


def by_transformers(model, expected):
    """The states of transformers' own forward pass of each text alone, positions and all."""
    states = []
    for inputs, place in expected:
        model.core.rope_deltas = None
        given = {name: value for name, value in inputs.items() if name != "position_ids"}
        states.append(model.core(**given, use_cache=False).last_hidden_state[0, place])
    model.core.rope_deltas = None
    return torch.stack(states)


def gradients(model, states):
    model.zero_grad()
    (states * torch.linspace(-1, 1, states.numel()).view_as(states)).sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


SHAPES, TRAININGS = ("right", "left", "groups", "bundles", "replies"), ("adapter", "checkpointing", "all weights")
QUICK = {("right", "checkpointing", "sdpa"), ("left", "all weights", "sdpa"), ("groups", "adapter", "sdpa")}
QUICK |= {("bundles", "adapter", "eager"), ("replies", "checkpointing", "eager"), ("replies", "adapter", "sdpa")}
TABLE = [
    pytest.param(*case, marks=() if case in QUICK else pytest.mark.slow)
    for case in itertools.product(SHAPES, TRAININGS, ("sdpa", "eager"))
]


@pytest.mark.parametrize(("shape", "training", "attention"), TABLE)
def test_states_and_gradients_are_those_of_each_text_alone_in_transformers(checkpoint, shape, training, attention):
    options = {"attn_implementation": attention, "padding_side": "left" if shape == "left" else "right"}
    options |= {"train_vision": True} if training == "all weights" else {"lora": LoRAOptions(r=4, alpha=8, dropout=0.0)}
    cls = QwenVLReasoner if shape == "replies" else QwenVLBackbone
    ours = built(checkpoint, cls, gradient_checkpointing=training == "checkpointing", **options)
    theirs = built(checkpoint, cls, **options)
    ours.train()
    for inputs, tokens, expected in cases(ours, shape):
        assert is_sparse(inputs)
        states, reference = ours.hidden_at(inputs, tokens), by_transformers(theirs, expected)
        torch.testing.assert_close(states, reference, atol=1e-5, rtol=0)
        whole = ours.hidden_states(inputs)
        torch.testing.assert_close(whole.flatten(0, 1)[tokens], reference, atol=1e-5, rtol=0)
        got, wanted = gradients(ours, states), gradients(theirs, reference)
        assert got.keys() == wanted.keys() != set()
        for name, value in wanted.items():
            assert float((got[name] - value).norm()) <= 1e-5 * float(value.norm()) + 1e-8, name
    assert theirs.core.get_decoder().config._attn_implementation == attention


@pytest.mark.parametrize("shape", ["right", "replies"])
@torch.no_grad()
def test_in_bfloat16_it_is_as_near_as_the_padded_batch(checkpoint, monkeypatch, shape):
    cls = QwenVLReasoner if shape == "replies" else QwenVLBackbone
    model, exact = built(checkpoint, cls, dtype="bfloat16"), built(checkpoint, cls)
    [(inputs, tokens, expected)] = cases(model, shape)
    reference = by_transformers(exact, expected)
    flat = (model.hidden_at(inputs, tokens).float() - reference).norm()
    monkeypatch.setattr("embedrl.models.qwen_vl.backbone.is_sparse", lambda inputs: False)
    padded = (model.hidden_at(inputs, tokens).float() - reference).norm()
    assert flat < 1.5 * padded < 0.1 * reference.norm()


@pytest.mark.parametrize("shape", ["right", "left", "groups", "replies"])
@torch.no_grad()
def test_the_layers_compute_real_tokens_alone_and_the_last_one_those_that_are_read(checkpoint, shape):
    model = built(
        checkpoint,
        QwenVLReasoner if shape == "replies" else QwenVLBackbone,
        padding_side="left" if shape == "left" else "right",
    )
    layers, computed = model.core.get_decoder().layers, []
    for layer in (layers[0], layers[-1]):
        layer.mlp.register_forward_hook(lambda module, args, out: computed.append(out.shape[:2].numel()))
    for inputs, tokens, _ in cases(model, shape):
        computed.clear()
        model.hidden_at(inputs, tokens)
        real = inputs.get("segments", inputs.get("attention_mask")) > 0
        assert computed == [int(real.sum()), len(tokens.unique())]
        assert computed[0] < real.numel() * FULL or "segments" in inputs


@pytest.mark.parametrize(("real", "sparse"), [(100, False), (96, False), (95, True), (40, True)])
def test_a_batch_with_little_padding_stays_one(checkpoint, real, sparse):
    mask = torch.ones(4, 25, dtype=torch.long)
    mask[-1, : 100 - real], mask[0, : max(0, 75 - real)] = 0, 0
    mask = mask if int(mask.sum()) == real else (torch.arange(100) >= 100 - real).long().view(4, 25)
    assert is_sparse({"attention_mask": mask}) == sparse
    model, shapes = built(checkpoint), []
    rows = mask[mask.any(1)]
    ids = torch.full_like(rows, 60)
    ids[:, -1] = model.emb_token_id
    model.core.get_decoder().layers[0].register_forward_hook(lambda m, args, out: shapes.append(out.shape[:2]))
    inputs = {"input_ids": ids, "attention_mask": rows, "position_ids": (rows.cumsum(1) - 1).clamp(0).expand(3, -1, -1)}
    with torch.no_grad():
        model(inputs)
    assert (shapes[0][0] == 1) == is_sparse(inputs)


def test_generation_and_export_do_not_notice(checkpoint, tmp_path):
    fresh, used = (built(checkpoint, QwenVLReasoner) for _ in range(2))
    [(inputs, tokens, _)] = cases(used, "replies")
    used.hidden_at(inputs, tokens)
    assert used.core.get_decoder().config._attn_implementation == GROUPED["sdpa"]
    prompts = fresh.preprocessor().prompts(PROMPTS)
    assert used.generate(prompts, 8) == fresh.generate(prompts, 8)
    used.export(tmp_path)
    assert "embedrl_" not in json.dumps(json.loads((tmp_path / "config.json").read_text()))


# ---------------------------------------------------------------- attention alone


@st.composite
def rows(draw):
    """Segments of a few rows, `last_segments` of trees, padding on one side."""
    kind, side = draw(st.sampled_from(["mask", "fan", "tree"])), draw(st.sampled_from(["left", "right"]))
    lists = []
    for _ in range(draw(st.integers(1, 4))):
        lengths = draw(st.lists(st.integers(1, 9), min_size=1, max_size=1 if kind == "mask" else 5))
        count = len(lengths)
        inside = [0] * count
        if kind == "tree":  # texts that the next `inside` ones continue, one in another
            ends = [count]
            for i in range(count):
                ends = [end for end in ends if end > i]
                inside[i] = draw(st.integers(0, min(ends) - i - 1))
                ends.append(i + inside[i] + 1)
        lists.append([(i + SHARED, i + SHARED + inside[i]) for i in range(count) for _ in range(lengths[i])])
    width = max(map(len, lists)) + draw(st.integers(0, 3))
    fill = [[(0, 0)] * (width - len(row)) for row in lists]
    table = torch.tensor([gap + row if side == "left" else row + gap for row, gap in zip(lists, fill, strict=True)])
    inputs = {"input_ids": torch.zeros_like(table[..., 0]), "position_ids": torch.zeros(3, *table.shape[:2]).long()}
    if kind == "mask":
        return inputs | {"attention_mask": (table[..., 0] > 0).long()}
    return inputs | {"segments": table[..., 0]} | ({"last_segments": table[..., 1]} if kind == "tree" else {})


@settings(deadline=None, max_examples=80)
@given(rows(), st.integers(0, 2**20), st.booleans())
@pytest.mark.parametrize("name", GROUPED.values())
def test_attention_by_groups_is_attention_under_the_mask(name, inputs, seed, some):
    torch.manual_seed(seed)
    row = FlatRow.of(inputs, torch.float64)
    mask = block_mask(inputs.get("segments", inputs.get("attention_mask")), torch.float64, inputs.get("last_segments"))
    heads, key_heads, dim = 4, 2, 8
    batch = [torch.randn(*row.shape, n, dim, dtype=torch.float64) for n in (heads, key_heads, key_heads)]
    query, key, value = (x.transpose(1, 2) for x in batch)
    key, value = (x.repeat_interleave(heads // key_heads, 1) for x in (key, value))
    expected = (softmax(query @ key.mT / dim**0.5 + mask, -1) @ value).transpose(1, 2).flatten(0, 1)[row.kept]
    asking = torch.arange(len(row.kept))
    if some:
        asking = asking[torch.rand(len(asking)) < 0.4] if len(asking) > 3 else asking[-1:]
        asking = asking if len(asking) else torch.tensor([0])
    groups = row.asking(asking) if some else row.inputs["attention_groups"]
    flat = [x.flatten(0, 1)[row.kept] for x in batch]
    flat = [x.transpose(0, 1)[None] for x in (flat[0][asking], *flat[1:])]
    module = torch.nn.Module()
    module.num_key_value_groups = heads // key_heads
    attend = flat_attention.AttentionInterface()[name]
    found, _ = attend(module, *flat, None, scaling=dim**-0.5, attention_groups=groups)
    torch.testing.assert_close(found[0], expected[asking], atol=1e-6, rtol=0)


def test_texts_of_like_length_share_a_group_without_a_mask_and_replies_are_not_compared():
    alike = [Text(0, 200), Text(200, 190), Text(390, 10), Text(400, 12)]
    groups = AttentionGroups.of(alike, torch.float32, torch.device("cpu"))
    assert [(g.queries.shape, g.mask) for g in groups.groups] == [((2, 12), None), ((2, 200), None)]
    replies = [Text(0, 512), *(Text(512 + 128 * i, 128, (0,)) for i in range(8))]
    groups = AttentionGroups.of(replies, torch.float32, torch.device("cpu"))
    assert groups.pairs == 512**2 + 8 * 128 * (512 + 128)
    assert groups.groups[1].mask.shape == (1, 1, 128, 640)
