import json

import pytest
import torch
from plain_vlm import families
from unified_runs import PRINTED, chats

import embedrl
from embedrl.data.render import RenderOptions, render
from embedrl.errors import CheckpointError, ConfigError, DataError, TooLongError
from embedrl.models.exported import exported_class, load_exported
from embedrl.models.lora import LoRAOptions
from embedrl.models.sampling import SamplingOptions
from embedrl.models.unified.layout import UnifiedLayout
from embedrl.models.unified.model import QwenVLUnified, VLMUnified
from embedrl.types import Side

ASKED = UnifiedLayout(request="evidence :")


def built(cls=QwenVLUnified, path="embedrl:tiny", layout=ASKED, **options):
    model = cls(str(path), layout, **options)
    model.build()
    return model.eval()


@pytest.fixture(scope="module")
def model():
    return built(max_length=200)


def check_against_transformers(model):
    """The reasoning's loss is that of transformers' own labels, by side; vectors are hidden states at the tokens."""
    for options in (RenderOptions(), PRINTED):
        inputs = model.preprocessor().for_training()(chats(options))
        with torch.no_grad():
            outputs = model.outputs(inputs)
            plain = model.network(**model._tensors(inputs), labels=inputs["labels"], output_hidden_states=True)
        tokens = (inputs["labels"][:, 1:] >= 0).sum()
        assert outputs[:, -1].sum() / tokens == pytest.approx(float(plain.loss), abs=1e-5)
        for token, vectors in zip(model.token_ids, outputs[:, :-1].chunk(2, dim=1), strict=True):
            places = (inputs["input_ids"] == token).nonzero()
            assert places[:, 0].tolist() == list(range(6))
            own = plain.hidden_states[-1][places[:, 0], places[:, 1]]
            expected = torch.nn.functional.normalize(own, dim=-1)
            torch.testing.assert_close(vectors, expected, atol=1e-5, rtol=0)


def test_the_losses_are_those_of_transformers(model):
    check_against_transformers(model)


@families(default=())
def test_every_family_reasons_and_embeds(name, tmp_path):
    if name in ("paligemma", "molmo2"):
        pytest.skip("no chats with replies, and a table of its own for new tokens: see docs/how_to/unified.md")
    model = built(VLMUnified, f"embedrl:tiny/{name}", max_length=4096)
    check_against_transformers(model)
    model.export(tmp_path / "out")
    again = load_exported(exported_class(str(tmp_path / "out")), str(tmp_path / "out"))
    assert type(again) is VLMUnified
    assert again.arrangement == ASKED
    with torch.no_grad():
        for options in (RenderOptions(), RenderOptions(tcot="none")):
            ours, theirs = (m.encode(m.preprocessor()(chats(options))) for m in (model, again))
            torch.testing.assert_close(theirs, ours, atol=1e-5, rtol=0)
    prompts = model.preprocessor().prompts(chats()[:2])
    drawn = model.sample(prompts, 2, [1, 2], SamplingOptions(max_new_tokens=3))
    assert [len(row) for row in drawn] == [2, 2]


@torch.no_grad()
def test_the_disc_vector_does_not_depend_on_the_reasoning(model):
    """Bitwise under the same padding, up to rounding otherwise; the gen vector does depend on it."""
    side = Side("find the picture : red star top left .")
    one, same_length, longer = (
        side.with_tcot(text) for text in ("red star top left", "blue circle top center", "red star top left " * 9)
    )
    as_written = RenderOptions(tcot="as_written")
    preprocessor = model.preprocessor()

    def disc_and_gen(*sides):
        inputs = preprocessor.for_training()([render(s, as_written) for s in sides])
        return model.outputs(inputs)[:, :-1].chunk(2, dim=1)

    (first, gen), (second, other_gen) = disc_and_gen(one), disc_and_gen(same_length)
    assert torch.equal(first, second)
    assert (gen - other_gen).abs().max() > 1e-3
    torch.testing.assert_close(disc_and_gen(one, longer)[0], first.expand(2, -1), atol=1e-6, rtol=0)
    raw = preprocessor([render(side, RenderOptions(tcot="none"))])
    torch.testing.assert_close(model.encode(raw), first, atol=1e-6, rtol=0)
    torch.testing.assert_close(model.encode(preprocessor([render(one, as_written)])), gen, atol=1e-6, rtol=0)


@torch.no_grad()
def test_a_reasoning_that_was_cut_off_is_read_at_its_last_token(model):
    chat = render(Side("red star").with_tcot("red star top left"), RenderOptions(tcot="as_written"))
    chat[0]["content"] = [part | {"cut": True} if part.get("reasoning") else part for part in chat[0]["content"]]
    inputs = model.preprocessor()([chat])
    assert model.token_ids[1] not in inputs["input_ids"]
    expected = torch.nn.functional.normalize(model.hidden_states(inputs)[:, -1], dim=-1)
    torch.testing.assert_close(model.encode(inputs), expected)


def test_without_disc_a_side_without_reasoning_has_its_vector_in_an_empty_turn():
    """As the targets of RGE."""
    model = built(layout=UnifiedLayout(disc=False, request=""))
    inputs = model.preprocessor()(chats(RenderOptions(tcot="none")))
    assert (inputs["input_ids"][:, -1] == model.token_ids[1]).all()
    assert model.token_ids[0] not in inputs["input_ids"]
    assert (inputs["labels"] < 0).all()
    with torch.no_grad():
        outputs = model.outputs(model.preprocessor().for_training()(chats()))
        assert outputs.shape == (6, model.encode(inputs).shape[1] + 1)  # one vector


def test_new_tokens_are_copies_of_special_ones(model, tmp_path):
    words = model.processor.tokenizer.get_vocab()
    for table in (model.network.get_input_embeddings(), model.network.get_output_embeddings()):
        for token, source in zip(("<disc_emb>", "<gen_emb>"), ("<|vision_start|>", "<|vision_end|>"), strict=True):
            assert torch.equal(table.weight[words[token]], table.weight[words[source]])
    own = built(layout=UnifiedLayout(disc_from="<|im_start|>", gen_from="<|im_end|>"))
    weight = own.network.get_input_embeddings().weight
    assert torch.equal(weight[words["<gen_emb>"]], weight[words["<|im_end|>"]])
    with pytest.raises(
        ConfigError, match=r"backbone.layout.gen_from is '<nothing>', which is no token of this tokenizer"
    ):
        built(layout=UnifiedLayout(gen_from="<nothing>"))


@pytest.mark.parametrize("merge", [True, False])
def test_an_export_says_how_it_reads(merge, tmp_path):
    lora = LoRAOptions(r=2, alpha=4, dropout=0.0) if not merge else None
    model = built(lora=lora)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.02)
    model.export(tmp_path / "out", merge)
    if merge:
        config = json.loads((tmp_path / "out/config.json").read_text())
        assert (config["disc_emb_token_id"], config["gen_emb_token_id"]) == model.token_ids
    again = load_exported(exported_class(str(tmp_path / "out")), str(tmp_path / "out"))
    assert type(again) is QwenVLUnified
    assert (again.token_ids, again.arrangement) == (model.token_ids, ASKED)
    with torch.no_grad():
        for options in (RenderOptions(), RenderOptions(tcot="none")):
            ours, theirs = (m.encode(m.preprocessor()(chats(options))) for m in (model, again))
            torch.testing.assert_close(theirs, ours, atol=1e-5, rtol=0)
    if merge:
        file = tmp_path / "out/config.json"
        file.write_text(file.read_text().replace(str(model.token_ids[1]), str(model.token_ids[1] + 1)))
        with pytest.raises(CheckpointError, match=r"config.gen_emb_token_id is \d+, but the tokenizer's <gen_emb> is"):
            load_exported(QwenVLUnified, str(tmp_path / "out"))


def test_what_it_writes_ends_with_its_token(model):
    """A reply that wrote `<gen_emb>` says so in its text; stop texts are not used, nor tokens of others written."""
    prompts = model.preprocessor().prompts(chats()[:1])
    words = model.processor.tokenizer.get_vocab()
    assert {words["<emb>"], words["<disc_emb>"]} <= set(model.suppressed)
    assert words["<gen_emb>"] in model.ends
    assert words["<gen_emb>"] not in model.suppressed
    head, text = model.network.get_output_embeddings(), "</answer>"
    before = head.weight.detach().clone()
    try:
        with torch.no_grad():
            head.weight[words["<gen_emb>"]] = head.weight.sum(0) * 0 + 1e4 * model.hidden_states(prompts)[0, -1]
        [[reply]] = model.sample(prompts, 1, [0], SamplingOptions(4, temperature=0.0, stop=(text,)))
    finally:
        with torch.no_grad():
            head.weight.copy_(before)
    assert (reply.text, reply.truncated, reply.tokens) == ("<gen_emb>", False, (words["<gen_emb>"],))


@pytest.mark.parametrize(
    ("side", "error", "message"),
    [
        (
            Side("red star", tcot="star " * 300),
            TooLongError,
            r"'red star' has \d+ tokens with its reasoning, more than",
        ),
        (Side("star " * 300), TooLongError, "more than max_length=200"),
        (Side("red <gen_emb> star"), DataError, "'<gen_emb>', a token reserved for the model"),
        (Side("red", tcot="star <disc_emb>"), DataError, "'<disc_emb>', a token reserved for the model"),
        (Side("", tcot="star"), DataError, "the side is empty"),
    ],
)
def test_bad_sides_get_one_clear_line(model, side, error, message):
    with pytest.raises(error, match=message) as caught:
        model.preprocessor()([render(side, RenderOptions(tcot="as_written", on_missing_tcot="raw"))])
    assert "\n" not in str(caught.value)


def test_training_rows_made_for_scoring_are_refused(model):
    with pytest.raises(DataError, match=r"a row has no <gen_emb>: train with embedrl.UnifiedDataModule"):
        model.outputs(model.preprocessor()(chats(RenderOptions(tcot="none"))))


def test_it_is_an_embedder_to_everything_else(model):
    assert isinstance(model, embedrl.models.Backbone)
    assert isinstance(model, embedrl.models.Generator)
    assert not model.shares_prefix


def test_with_a_gate_a_side_without_reasoning_teaches_not_to_reason():
    """Its only label is `<gen_emb>`, the first token of the reply; without a gate, it has none."""
    raw = chats(RenderOptions(tcot="none"))
    for gate in (False, True):
        model = built(layout=UnifiedLayout(request="evidence :", gate=gate))
        inputs = model.preprocessor().for_training()(raw)
        labels = [row[row >= 0].tolist() for row in inputs["labels"]]
        assert labels == [[model.token_ids[1]] if gate else []] * len(raw)
        with torch.no_grad():
            nll = model.outputs(inputs)[:, -1]
            prompts = model.preprocessor().prompts(raw)
            logits = model.network(**model._tensors(prompts)).logits[:, -1].float().log_softmax(-1)
        expected = -logits[:, model.token_ids[1]] if gate else torch.zeros(len(raw))
        torch.testing.assert_close(nll, expected, atol=1e-4, rtol=1e-4)
        model.preprocessor()(raw)  # in embedding, as without
        assert (model.preprocessor()(raw)["labels"] < 0).all()
