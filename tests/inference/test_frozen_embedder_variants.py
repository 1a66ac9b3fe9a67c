"""Parts of T-CoTs embedded as branches of one sequence, against every part in a batch of its own."""

import logging

import pytest
import torch

from embedrl.data.lenient_render import as_lenient, fitting_chat
from embedrl.data.opened import OpenedImage
from embedrl.data.render import RenderOptions
from embedrl.data.variants import variant_chat
from embedrl.errors import ConfigError
from embedrl.inference.frozen_embedder import LENIENT, FrozenEmbedder
from embedrl.models.qwen_vl.backbone import QwenVLBackbone
from embedrl.types import Side
from tests.helpers.qwen_helpers import picture

VARIANTS = ("none", "thinking", "rethink", "no_evidence")
CPU = torch.device("cpu")
TCOTS = [
    '<thinking>the star {"bbox_2d": [[0, 0, 500, 500]]}</thinking><rethink>red</rethink><answer>red star</answer>',
    '<thinking>two {"bbox_2d": [[0, 0, 500, 500], [400, 300, 900, 800]]}</thinking><rethink>or</rethink>'
    "<answer>a circle</answer>",
    "<thinking>the star</thinking><rethink>red</rethink><answer>red star</answer>",
    "no T-CoT at all",
    "<thinking>cut off",
    "",
]


@pytest.fixture(scope="module")
def backbone():
    model = QwenVLBackbone("embedrl:world_base")
    model.build()
    return model


@pytest.fixture(scope="module")
def sides():
    image = OpenedImage("picture", picture(1, (64, 64)))
    plain = [Side("what is this ?", (image,)), Side("red star"), Side("", frames=(image,) * 3)]
    return [side.with_tcot(tcot) for side in plain for tcot in TCOTS]


def naive(backbone, sides, variants):
    """Every part rendered, and embedded alone."""
    preprocessor, rows = backbone.preprocessor(), []
    for variant in (None, *variants):
        rows.append([])
        for side in sides:
            chat = fitting_chat(side, as_lenient(LENIENT), preprocessor, "", None, {})
            rows[-1].append(backbone(preprocessor([chat if variant is None else variant_chat(chat, side, variant)]))[0])
    return torch.stack([torch.stack(row) for row in rows])


@torch.no_grad()
def test_one_pass_equals_a_pass_for_every_part(backbone, sides):
    rows = []
    hook = backbone.register_forward_pre_hook(lambda m, args: rows.append(len(args[0].get("sources", ()))))
    one = FrozenEmbedder(backbone, micro_batch_size=16).embed_variants(sides, ["x"] * len(sides), CPU, VARIANTS)
    hook.remove()
    expected = naive(backbone, sides, VARIANTS)
    torch.testing.assert_close(one, expected, atol=1e-5, rtol=0)
    # The raw side is embedded once for all of its T-CoTs.
    assert sum(rows) == len(sides) * len(VARIANTS) + 3
    several = FrozenEmbedder(backbone, shared_prefix=False).embed_variants(sides, ["x"] * len(sides), CPU, VARIANTS)
    torch.testing.assert_close(several, expected, atol=1e-5, rtol=0)
    plain = FrozenEmbedder(backbone, micro_batch_size=16).embed(sides, ["x"] * len(sides), CPU)
    torch.testing.assert_close(one[0], plain, atol=1e-5, rtol=0)
    # They are different things: a reward that compares them would be 0 otherwise.
    first = one[:, 0]
    assert ((first @ first.T).fill_diagonal_(0) < 0.9999).all()


@torch.no_grad()
def test_the_parts_cost_less_than_half_a_pass_more(backbone):
    """Tokens that go through the network, padding included: a figure that no other load of the machine changes."""
    words = "star is at the top left and at the middle right of it is the blue circle ."
    colors = ("red", "blue", "green", "yellow", "black", "purple", "orange", "grey")
    image = OpenedImage("picture", picture(2, (96, 96)))
    tcots = [
        f'<thinking>{color} {words} {{"bbox_2d": [[{20 * i}, 0, 500, 500]]}}</thinking>'
        f"<rethink>the {color} star matters .</rethink><answer>{color} star top left</answer>"
        for i, color in enumerate(colors)
    ]
    sides = [Side("what is this ?", (image,), tcot=tcot) for tcot in tcots]
    tokens = []
    hook = backbone.register_forward_pre_hook(lambda m, args: tokens.append(args[0]["input_ids"].numel()))
    embedder, where = FrozenEmbedder(backbone), ["x"] * 8
    embedder.embed(sides, where, CPU)
    one, tokens[:] = sum(tokens), []
    embedder.embed_variants(sides, where, CPU, ("none", "thinking", "rethink"))  # as step credit asks
    hook.remove()
    assert one < sum(tokens) < 1.5 * one


def test_a_backbone_without_blocks_says_what_it_costs(backbone, sides, caplog):
    embedder = FrozenEmbedder(backbone, shared_prefix=False)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            embedder.embed_variants(sides[:1], ["x"], CPU, ("thinking",))
    assert [record.message for record in caplog.records if "passes in place of one" in record.message] == [
        "a QwenVLBackbone embeds the parts of a T-CoT (thinking) one after another: 2 passes in place of one "
        "(embedder.shared_prefix is false)"
    ]


@pytest.mark.parametrize(
    ("render", "variants"),
    [(RenderOptions(tcot="answer_only"), ("thinking",)), (RenderOptions(cues="off"), ("no_evidence",))],
)
def test_an_embedder_that_does_not_read_them_is_refused(backbone, sides, render, variants):
    with pytest.raises(ConfigError, match="need an Embedder that reads it whole"):
        FrozenEmbedder(backbone, render).embed_variants(sides[:1], ["x"], CPU, variants)
