"""`--checkpoint` means the same everywhere: a `.ckpt`, a run, an export, an adapter; what an export says of itself."""

import functools
import json
import shutil

import lightning
import pytest
import torch
from fake_backbone import FakeBackbone
from huggingface_hub import ModelCard
from qwen_helpers import EMB, text, user

from embedrl import cli
from embedrl.errors import CheckpointError
from embedrl.losses.info_nce import InfoNCE
from embedrl.models.lora import LoRAOptions
from embedrl.models.qwen_vl.backbone import QwenVLBackbone
from embedrl.models.qwen_vl.preprocess import PixelBudget
from embedrl.models.qwen_vl.reasoner import QwenVLReasoner
from embedrl.training.embedder import EmbedderModule
from embedrl.training.model_card import write_card
from embedrl.training.reasoner import ReasonerModule
from embedrl.training.trained_model import load_embedder, load_reasoner, load_trained, locate

ADAMW = functools.partial(torch.optim.AdamW, lr=1e-3)
BUDGETS = {"evidence_pixels": PixelBudget(2304, 6912), "frame_pixels": PixelBudget(512, 4096)}
TEXT = [[user(text("a red star")), EMB]]


@torch.no_grad()
def vector(model):
    return model.encode(model.preprocessor()(TEXT))


def save(module, path):
    trainer = lightning.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    trainer.strategy.connect(module)
    module.configure_model()
    for name, parameter in module.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    trainer.save_checkpoint(path)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with runs of an Embedder and of a Reasoner, and what `embedrl export` makes of them."""
    folder = tmp_path_factory.mktemp("trained")
    lightning.seed_everything(0, verbose=False)
    lora = LoRAOptions(r=2, dropout=0.0)
    embedder = EmbedderModule(QwenVLBackbone("embedrl:tiny", lora=lora, **BUDGETS), InfoNCE(0.05), ADAMW)
    save(embedder, folder / "embedder/version_0/checkpoints/last.ckpt")
    save(ReasonerModule(QwenVLReasoner("embedrl:tiny"), ADAMW), folder / "reasoner/version_0/checkpoints/last.ckpt")
    (folder / "empty").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for words in (
            ["--checkpoint", "embedder", "--out", "model"],
            ["--checkpoint", "embedder/version_0/checkpoints/last.ckpt", "--out", "adapter", "--adapter", "true"],
            ["--checkpoint", "adapter", "--out", "merged"],
            ["--checkpoint", "reasoner/version_0", "--out", "writer"],
        ):
            assert cli.main(["export", *words]) == 0
    return folder


@pytest.fixture
def inside(place, monkeypatch):
    monkeypatch.chdir(place)
    return place


FORMS = ["embedder", "embedder/version_0", "embedder/version_0/checkpoints/last.ckpt", "model", "adapter", "merged"]


@pytest.mark.slow
def test_an_embedder_is_the_same_wherever_it_lies(inside):
    models = {form: load_embedder(form) for form in FORMS}
    expected = vector(models[FORMS[2]])
    for form, model in models.items():
        torch.testing.assert_close(vector(model), expected, atol=1e-5, rtol=0, msg=form)
        preprocessor = model.preprocessor()
        assert (preprocessor.evidence, preprocessor.frames) == tuple(BUDGETS.values()), form
    base = vector(load_embedder("embedrl:tiny"))
    assert (expected - base).abs().max() > 1e-3


@pytest.mark.slow
def test_a_reasoner_too(inside):
    for form in ("reasoner", "writer", "reasoner/version_0/checkpoints/last.ckpt", "embedrl:tiny"):
        assert isinstance(load_reasoner(form), QwenVLReasoner)


@pytest.mark.slow
def test_the_newest_run_counts(inside, tmp_path):
    for name in ("version_0", "version_1"):
        shutil.copytree("embedder/version_0", tmp_path / "runs" / name)
    newest = tmp_path / "runs/version_1/checkpoints/last.ckpt"
    newest.touch()
    assert locate(str(tmp_path / "runs")) == newest
    assert locate("model") is None


WRONG = {
    "a Reasoner's run": (load_embedder, "reasoner", "--checkpoint reasoner: a Reasoner's, which gives no vectors"),
    "a Reasoner": (load_embedder, "writer", "--checkpoint writer: a Reasoner's, which gives no vectors"),
    "an Embedder's run": (load_reasoner, "embedder", "--checkpoint embedder: an Embedder's, which writes nothing"),
    "an Embedder": (load_reasoner, "model", "--checkpoint model: an Embedder's, which writes nothing"),
    "an Embedder's adapter": (load_reasoner, "adapter", "--checkpoint adapter: an Embedder's, which writes nothing"),
    "neither": (load_trained, "empty", "--checkpoint empty: neither a model's folder"),
    "missing file": (load_trained, "gone.ckpt", "--checkpoint gone.ckpt: no such file"),
    "missing folder": (load_trained, "./gone", "--checkpoint ./gone: no such folder"),
    "missing name": (load_trained, "embedder/gone", "--checkpoint embedder/gone: no such file or folder"),
    "unknown kind": (load_trained, "embedrl:tiny", "--checkpoint embedrl:tiny: a model that does not say whether"),
}


@pytest.mark.parametrize("name", ["gone/folder/model", "no/such", "nothing", "x y"])
def test_a_name_of_nothing_is_one_line(name):
    for load in (load_embedder, load_reasoner):
        with pytest.raises(CheckpointError, match=rf"--checkpoint {name}: no such folder"):
            load(name)


@pytest.mark.slow
@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_fit_is_said_in_one_line(case, inside):
    load, checkpoint, message = WRONG[case]
    with pytest.raises(CheckpointError) as error:
        load(checkpoint)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_a_run_as_a_path_is_answered_with_the_cure(inside):
    with pytest.raises(CheckpointError, match="embedder: a run's folder; `embedrl export --checkpoint embedder --out"):
        QwenVLBackbone("embedder").build()


def options(image_pixels):
    return json.dumps({"format": 1, "model": "embedrl.QwenVLBackbone", "options": {"image_pixels": image_pixels}})


OPTIONS = {
    "no JSON": ("{", "broken"),
    "no mapping": ("[]", "broken"),
    "no options": ('{"format": 1, "model": "embedrl.QwenVLBackbone"}', "broken"),
    "later": ('{"format": 2, "model": "embedrl.QwenVLBackbone", "options": {}}', "of format 2, this version reads 1"),
    "foreign class": ('{"format": 1, "model": "os.system", "options": {}}', "names os.system, which is no model"),
    "other class": ('{"format": 1, "model": "embedrl.Side", "options": {}}', "names embedrl.Side, which is no model"),
    "budget": (options({"min_pixels": 9, "max_pixels": 1}), "broken pixel budget"),
    "key": (options({"least": 9}), "broken pixel budget"),
}


@pytest.mark.parametrize("case", OPTIONS)
def test_a_broken_embedrl_json_is_an_error(case, tmp_path):
    content, message = OPTIONS[case]
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "embedrl_config.json").write_text(content)
    with pytest.raises(CheckpointError, match=rf"--checkpoint .*embedrl_config\.json.*{message}"):
        load_trained(str(tmp_path))


CARDS = {
    "model": ("sentence-transformers", "feature-extraction", 'SentenceTransformer("model")'),
    "adapter": ("peft", "feature-extraction", 'PeftModel.from_pretrained(model, "adapter")'),
    "writer": ("transformers", "image-text-to-text", "embedrl reason --checkpoint writer"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CARDS)
def test_the_model_card(name, place):
    library, pipeline, how = CARDS[name]
    card = ModelCard.load(place / name / "README.md")
    assert (card.data.library_name, card.data.pipeline_tag) == (library, pipeline)
    assert "embedrl" in card.data.tags
    assert how in card.text
    assert "trained with embedrl from `embedrl:tiny`" in card.text
    assert "| optimizer steps | 0 |" in card.text
    assert str(place) not in card.content


def test_the_card_of_a_backbone_of_ones_own_names_its_class(tmp_path):
    write_card(tmp_path, FakeBackbone(), "mine", {"steps": 3})
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.library_name == "embedrl"
    assert "fake_backbone.FakeBackbone" in card.text
    assert "| steps | 3 |" in card.text


@pytest.mark.slow
def test_an_export_says_what_it_is(place):
    content = json.loads((place / "adapter/embedrl_config.json").read_text())
    assert content == {
        "format": 1,
        "model": "embedrl.QwenVLBackbone",
        "options": {
            "image_pixels": None,
            "evidence_pixels": {"min_pixels": 2304, "max_pixels": 6912},
            "frame_pixels": {"min_pixels": 512, "max_pixels": 4096},
        },
    }


@pytest.mark.slow
def test_an_option_is_stronger_than_what_a_folder_says(inside):
    other = PixelBudget(1024, 2304)
    preprocessor = QwenVLBackbone("model", evidence_pixels=other).preprocessor()
    assert (preprocessor.evidence, preprocessor.frames) == (other, BUDGETS["frame_pixels"])
