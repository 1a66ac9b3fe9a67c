import pytest
import torch
from qwen_helpers import EMB, image, text, user, video, write_checkpoint

from embedrl.data.collate import group_micro_batches
from embedrl.errors import ConfigError, DataError
from embedrl.inference.frozen_embedder import FrozenEmbedder
from embedrl.models.grouping import MAX_TOKENS, plan
from embedrl.models.qwen_vl.backbone import QwenVLBackbone
from embedrl.types import Side


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    # Deepstack features are added to the first layers where pictures are: a random model must feel them.
    backbone = QwenVLBackbone(str(write_checkpoint(tmp_path_factory.mktemp("grouping"))))
    backbone.build()
    return backbone.requires_grad_(False).eval()


def chat(*parts):
    return [user(*parts), EMB]


def crop(seed, size=(48, 48)):
    return image(seed, size, evidence=True)


def branches(*prefix):
    """Five rollouts of one side: without crops, with one, with several of several sizes, longer and shorter."""
    tail = text("so the answer is red <answer>red star</answer>")
    return [
        chat(*prefix, text("the red star"), tail),
        chat(*prefix, text("the red star is here"), crop(1), tail),
        chat(*prefix, text("a blue circle and rather a lot of other words to read"), crop(2), crop(3, (96, 32)), tail),
        chat(*prefix, crop(4, (32, 64)), crop(5), crop(6), text("three")),
        chat(*prefix, text("?")),
    ]


GROUPS = {
    "image": branches(image(10), text("what is this ? ")),
    "images": branches(image(11), image(12, (64, 96)), text("which of the two ? ")),
    "video": branches(video(20), text("and then ? ")),
    "image and video": branches(image(13), video(30, frames=2), text("and then ? ")),
    "text": branches(text("a question without any picture , is it ? ")),
    "alone": branches(image(14), text("alone "))[1:2],
    "crops first": [chat(image(15), crop(4, (32, 64)), crop(seed), text("three")) for seed in (6, 7)],
    "other picture": [chat(image(16), text("same words")), chat(image(17), text("same words"))],
    "other size": [chat(image(16, (96, 48)), text("same words")), chat(image(17), text("same words"))],
    "nothing in common": [chat(text("red")), chat(image(18), text("red"))],
    "equal": [chat(image(19), text("red")), chat(image(19), text("red"))],
}


def naive(model, groups):
    """The reference: every chat in a batch of its own."""
    return torch.cat([model(model.preprocessor()([c])) for group in groups for c in group])


@pytest.fixture(scope="module")
def expected(model):
    with torch.no_grad():
        return {name: naive(model, [group]) for name, group in GROUPS.items()}


def shared(model, groups, max_chats=32):
    preprocessor = model.preprocessor()
    batches, order = preprocessor.groups(groups, max_chats)
    assert sorted(order.tolist()) == list(range(sum(map(len, groups))))
    batches = list(batches)
    return torch.cat([model(inputs) for inputs in batches])[order.argsort()], batches


@pytest.mark.parametrize("name", GROUPS)
@torch.no_grad()
def test_vectors_of_a_group_are_those_of_its_chats(model, expected, name):
    found, [inputs] = shared(model, [GROUPS[name]])
    torch.testing.assert_close(found, expected[name], atol=1e-5, rtol=0)
    assert len(inputs["input_ids"]) == 1


@pytest.mark.parametrize(
    ("max_chats", "side", "attention"), [(32, "right", "sdpa"), (4, "left", "eager"), (1, "right", "sdpa")]
)
@torch.no_grad()
def test_several_groups_a_micro_batch(model, expected, monkeypatch, max_chats, side, attention):
    model.core.set_attn_implementation(attention)
    monkeypatch.setattr(model, "padding_side", side)
    found, batches = shared(model, list(GROUPS.values()), max_chats)
    model.core.set_attn_implementation("sdpa")
    torch.testing.assert_close(found, torch.cat(list(expected.values())), atol=1e-5, rtol=0)
    assert all(len(inputs["sources"]) <= max_chats for inputs in batches)
    assert any("segments" in inputs for inputs in batches) == (max_chats > 1)


@torch.no_grad()
def test_the_shipped_base_agrees_too():
    model = QwenVLBackbone("embedrl:world_base")
    model.build()
    model.eval()
    groups = list(GROUPS.values())
    torch.testing.assert_close(shared(model, groups)[0], naive(model, groups), atol=1e-5, rtol=0)


def test_gradients_are_those_of_the_chats(model):
    groups, vectors = [GROUPS["image"], GROUPS["video"]], []
    model.requires_grad_(True)
    for passed in (shared(model, groups)[0], naive(model, groups)):
        model.zero_grad()
        (passed * torch.linspace(0, 1, passed.numel()).view_as(passed)).sum().backward()
        vectors.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    model.zero_grad()
    model.requires_grad_(False)
    assert float((vectors[0] - vectors[1]).norm() / vectors[1].norm()) < 1e-5


@torch.no_grad()
def test_the_beginning_and_its_pictures_are_computed_once(model):
    patches, tokens = [], []
    hooks = [
        model.core.visual.blocks[0].register_forward_hook(lambda m, a, out: patches.append(len(out))),
        model.core.language_model.layers[0].register_forward_hook(lambda m, a, out: tokens.append(out.shape[:2])),
    ]
    group = GROUPS["video"]
    shared(model, [group])
    for hook in hooks:
        hook.remove()
    preprocessor = model.preprocessor()
    each = [preprocessor([c]) for c in group]
    own = sum(len(inputs["pixel_values"]) for inputs in each if "pixel_values" in inputs)
    assert sum(patches) == own + len(each[0]["pixel_values_videos"])
    # What follows <emb> is left out: the end of the turn and a line break.
    lengths = [inputs["input_ids"].shape[1] - 2 for inputs in each]
    common = next(i for i in range(99) if len({int(inputs["input_ids"][0, i]) for inputs in each}) > 1)
    assert tokens == [(1, common + sum(length - common for length in lengths))]


def test_plan_takes_the_fewest_rows():
    for shared_tokens, own in ((500, [60] * 8), (20, [60] * 8), (5, [60, 10, 200]), (0, [60] * 8)):
        [row] = plan(list(range(len(own))), shared_tokens, own, 32)
        assert row.chats == list(range(len(own)))
        assert row.width == shared_tokens + sum(own)
    assert [len(row.chats) for row in plan(list(range(8)), 500, [60] * 8, 3)] == [2, 3, 3]


def test_rows_stay_below_the_limit_unless_a_chat_is_longer():
    rows = plan(list(range(6)), 1000, [1000] * 6, 32)
    assert [row.width for row in rows] == [4000, 4000]
    assert MAX_TOKENS == 4096
    assert len(plan([0, 1], 1, [5000, 5000], 32)) == 2


def test_flash_attention_keeps_the_naive_pass_and_refuses_packed_rows(model):
    [inputs] = model.preprocessor().groups([GROUPS["text"]], 32)[0]
    other = QwenVLBackbone(model.path, attn_implementation="flash_attention_2")
    assert model.shares_prefix
    assert not other.shares_prefix
    other.net = model.net
    assert "segments" in inputs
    with pytest.raises(ConfigError, match="shared_prefix=false"):
        other(inputs)


def test_errors_name_the_chat(model):
    bare = [user(text("no turn of the assistant"))]
    with pytest.raises(DataError, match="holds no <emb>"):
        model.preprocessor().groups([[chat(text("red")), bare]], 32)
    with pytest.raises(DataError, match=r"second: .*marks pixels"):
        group_micro_batches(
            [chat(text("red")), chat(text("<|image_pad|>"))], ["a", "a"], ["first", "second"], model.preprocessor(), 32
        )


class Picture:
    def __init__(self, seed):
        self.name, self.seed = f"picture {seed}", seed

    def load(self):
        return image(self.seed)["image"]


TCOTS = [
    "",
    '<thinking>the star {"bbox_2d": [[0, 0, 500, 500]]}</thinking><rethink>red</rethink><answer>red star</answer>',
    '<thinking>two {"bbox_2d": [[0, 0, 500, 500], [400, 300, 900, 800]]}</thinking><rethink>or</rethink>'
    "<answer>a circle</answer>",
    "no T-CoT at all",
    "",
]


def test_the_frozen_embedder_groups_rollouts_by_side():
    sides = [
        side.with_tcot(tcot)
        for tcot in TCOTS
        for side in (Side("what is this ?", images=(Picture(1),)), Side("red star"), Side("", frames=(Picture(2),) * 3))
    ]
    where, device = [str(i) for i in range(len(sides))], torch.device("cpu")
    backbone = QwenVLBackbone("embedrl:world_base")
    rows = []
    backbone.register_forward_pre_hook(lambda m, args: rows.append(len(args[0].get("sources", ()))))
    found = FrozenEmbedder(backbone, micro_batch_size=5).embed(sides, where, device)
    assert sum(rows) == 12  # equal ones are embedded once
    assert max(rows) <= 5
    expected = FrozenEmbedder(backbone, micro_batch_size=5, shared_prefix=False).embed(sides, where, device)
    assert sum(rows) == 12
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
