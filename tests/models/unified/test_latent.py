"""Latent steps: with cache as without, gradients through all of them, none of them, and what is refused."""

import pytest
import torch
from unified_runs import PRINTED, chats

from embedrl.data.render import RenderOptions
from embedrl.errors import ConfigError, DataError
from embedrl.models.exported import exported_class, load_exported
from embedrl.models.lora import LoRAOptions
from embedrl.models.packing import IGNORE
from embedrl.models.unified.latent import cut_rows
from embedrl.models.unified.latent_model import QwenVLLatent
from embedrl.models.unified.layout import UnifiedLayout
from embedrl.models.unified.model import QwenVLUnified

ASKED, STEPS = UnifiedLayout(request="evidence :"), 3
LATENT = RenderOptions(tcot="latent")


def built(steps=STEPS, cls=QwenVLLatent, layout=ASKED, **options):
    own = {"latent_steps": steps} if cls is QwenVLLatent else {}
    model = cls("embedrl:tiny", layout, max_length=400, **own, **options)
    model.build()
    return model.eval()


@pytest.fixture(scope="module")
def model():
    return built()


def plain(model, chat, steps):
    """One side by a loop that reads everything anew at every step: its vectors, and the likelihood of what is left."""
    inputs = model.preprocessor().for_training()([chat])
    ids, positions, labels = (inputs[name] for name in ("input_ids", "position_ids", "labels"))
    first = int((labels[0] != IGNORE).nonzero()[0, 0])
    words = labels.shape[1] - first - 1
    kept = ids[:, first + words * steps // model.latent_steps :]
    pixels = {name: value for name, value in inputs.items() if name.startswith(("pixel", "image_grid", "video_grid"))}
    core, embed = model.core, model.network.get_input_embeddings()

    def hidden(latents, tail):
        """Placeholder tokens where the latents come: their embeddings are put in by a hook on the embedding."""
        latents = list(latents)
        tokens = torch.cat([ids[:, :first], torch.zeros(1, len(latents), dtype=ids.dtype), tail], dim=1)
        more = positions[..., :first].max() + 1 + torch.arange(tokens.shape[1] - first)
        places = torch.cat([positions[..., :first], more.expand(3, 1, -1)], dim=-1)

        def put(module, arguments, output):
            if not latents:
                return output
            return torch.cat([output[:, :first], torch.stack(latents, 1), output[:, first + len(latents) :]], dim=1)

        handle = embed.register_forward_hook(put)
        try:
            core.rope_deltas = None
            return core(input_ids=tokens, position_ids=places, use_cache=False, **pixels).last_hidden_state
        finally:
            handle.remove()

    latents = []
    for _ in range(steps):
        latents.append(hidden(latents, ids[:, :0])[:, -1])
    states = hidden(latents, kept)
    disc = int((ids[0] == model.token_ids[0]).nonzero()[-1, 0])
    logits = model.logits(states[0, first + steps - 1 : -1]).float()
    nll = torch.nn.functional.cross_entropy(logits, kept[0], reduction="sum")
    vectors = [torch.nn.functional.normalize(states[0, at].float(), dim=-1) for at in (disc, -1)]
    return torch.cat([*vectors, nll[None]])


@pytest.mark.parametrize("steps", [1, 3])
def test_steps_with_a_cache_are_those_of_a_plain_loop(model, steps):
    """Texts, pictures and a video of different lengths in one batch; every number of steps leaves other words."""
    with torch.no_grad():
        ours = model.outputs(model.preprocessor().for_training()(chats(PRINTED)), steps)
        theirs = torch.stack([plain(model, chat, steps) for chat in chats(PRINTED)])
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_what_is_embedded_is_what_was_trained(model):
    """Behind all steps no word is left: the words of the side, or that it has some, make no difference."""
    with torch.no_grad():
        trained = model.outputs(model.preprocessor().for_training()(chats(PRINTED)))[:, :-1].chunk(2, dim=1)
        for options in (PRINTED, LATENT):
            vectors = model.encode(model.preprocessor()(chats(options)))
            torch.testing.assert_close(vectors, trained[1], atol=1e-5, rtol=0)
        raw = model.encode(model.preprocessor()(chats(RenderOptions(tcot="none"))))
        mixed = model.encode(model.preprocessor()([*chats(LATENT)[:2], *chats(RenderOptions(tcot="none"))[2:]]))
    torch.testing.assert_close(raw, trained[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(mixed, torch.cat([trained[1][:2], trained[0][2:]]), atol=1e-5, rtol=0)
    assert abs(trained[0] - trained[1]).max() > 1e-3


def test_gradients_flow_through_all_steps(model):
    """Against those of the loop without a cache; a step that were cut off would lack its share."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    chat = chats(PRINTED)[0]

    def gradients(outputs):
        weights = torch.linspace(-1, 1, outputs.numel())
        return torch.autograd.grad((outputs * weights).sum(), parameters, allow_unused=True)

    ours = gradients(model.outputs(model.preprocessor().for_training()([chat]))[0])
    theirs = gradients(plain(model, chat, STEPS))
    for one, other in zip(ours, theirs, strict=True):
        if one is not None and other is not None:
            torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-3)
    assert sum(float(g.norm()) for g in ours if g is not None) > 1


def test_without_steps_it_is_the_model_with_words():
    """Bit by bit, in training and in embedding."""
    none, worded = built(0), built(cls=QwenVLUnified)
    for whole in (True, False):
        one, other = (m.preprocessor().for_training() if whole else m.preprocessor() for m in (none, worded))
        with torch.no_grad():
            for options in (RenderOptions(), PRINTED):
                read = [preprocessor(chats(options)) for preprocessor in (one, other)]
                made = [(m.outputs if whole else m.encode)(i) for m, i in zip((none, worded), read, strict=True)]
                assert torch.equal(*made)


def test_words_give_way_from_the_beginning(model):
    inputs = model.preprocessor().for_training()(chats(PRINTED)[:2])
    labels = [row[row != IGNORE].tolist() for row in inputs["labels"]]
    for steps in range(STEPS + 1):
        rows = cut_rows(inputs, steps, STEPS)
        for number, own in enumerate(labels):
            left = rows.labels[number][rows.labels[number] != IGNORE].tolist()
            assert left == own[(len(own) - 1) * steps // STEPS :]
            assert left[-1] == model.token_ids[1]
    assert len(left) == 1


def test_an_export_keeps_the_steps_and_the_vectors(tmp_path):
    model = built(2, lora=LoRAOptions(r=2, alpha=4, dropout=0.0, scope="language"))
    model.export(tmp_path / "model")
    folder = str(tmp_path / "model")
    again = load_exported(exported_class(folder), folder)
    assert type(again) is QwenVLLatent
    assert again.latent_steps == 2
    with torch.no_grad():
        first, second = (one.encode(one.preprocessor()(chats(LATENT))) for one in (model, again))
    torch.testing.assert_close(first, second, atol=1e-5, rtol=0)
    assert QwenVLLatent(folder, latent_steps=5).latent_steps == 5


def test_bad_options_get_one_clear_error(model):
    with pytest.raises(ConfigError, match=r"backbone\.latent_steps is -1: give 0"):
        QwenVLLatent("embedrl:tiny", latent_steps=-1)
    with pytest.raises(ConfigError, match=r"backbone\.layout\.gen is false"):
        built(layout=UnifiedLayout(gen=False))
    with pytest.raises(DataError, match=r"shows evidence, which latent steps do not name: set render\.cues: printed"):
        model.preprocessor()(chats(families=("composed",)))
