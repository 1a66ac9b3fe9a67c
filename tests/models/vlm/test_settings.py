"""An export of any family reads as the model that it was made from, wherever it is loaded."""

import json

import pytest
import torch
from plain_vlm import CHATS, QUICK

from embedrl import cli
from embedrl.errors import CheckpointError
from embedrl.models.exported import load_backbone
from embedrl.models.lora import LoRAOptions
from embedrl.models.qwen_vl.preprocess import PixelBudget
from embedrl.models.vlm.backbone import VLMBackbone
from embedrl.models.vlm.families import PatchGrids, PicturesByRow, PixelCoordinates
from embedrl.models.vlm.reasoner import VLMReasoner
from embedrl.models.vlm.settings import PictureSettings, load_settings
from embedrl.training.trained_model import load_embedder, load_reasoner, load_trained

SMALL = {"image_pixels": PixelBudget(16**2, 32**2)}
SETTINGS = {
    QUICK: SMALL,
    "idefics3": {"image_settings": {"do_image_splitting": False}},
    "internvl": {"image_settings": {"max_patches": 1}},
    "lfm2_vl": SMALL,
    "glm4v": SMALL,
    "mistral3": {"image_settings": {"size": {"longest_edge": 32}}},
    "qwen3_5": SMALL | {"video_settings": {"size": {"shortest_edge": 16**2, "longest_edge": 2 * 32**2}}},
}

OTHERS = [name for name in SETTINGS if name != QUICK]


@torch.no_grad()
def vectors(backbone):
    return backbone.eval()(backbone.preprocessor()(CHATS))


def trained(path, cls=VLMBackbone, **options):
    model = cls(path, lora=LoRAOptions(r=2, dropout=0.0), **options)
    model.build()
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    return model.eval()


@pytest.mark.parametrize("name", [QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS)])
def test_chosen_options_come_with_an_export_and_with_an_adapter(name, tmp_path):
    model = trained(f"embedrl:tiny/{name}", **SETTINGS[name])
    expected = vectors(model)
    for folder, merge in (("model", True), ("adapter", False)):
        model.export(tmp_path / folder, merge)
        again = load_backbone(str(tmp_path / folder))
        assert isinstance(again, VLMBackbone)
        torch.testing.assert_close(vectors(again), expected, atol=1e-5, rtol=0)
    plain, small = (VLMBackbone(f"embedrl:tiny/{name}", **options).preprocessor() for options in ({}, SETTINGS[name]))
    assert plain([CHATS[3]])["input_ids"].shape[1] > small([CHATS[3]])["input_ids"].shape[1]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["idefics3", "internvl"])
def test_every_command_reads_a_familys_folder(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    embedder = trained(f"embedrl:tiny/{name}", **SETTINGS[name])
    embedder.export(tmp_path / "adapter", merge=False)
    trained(f"embedrl:tiny/{name}", VLMReasoner).export(tmp_path / "writer")
    assert cli.main(["export", "--checkpoint", "adapter", "--out", "model"]) == 0, capsys.readouterr().err
    assert cli.main(["export", "--checkpoint", "writer", "--out", "again"]) == 0, capsys.readouterr().err
    for folder in ("adapter", "model"):
        for load in (load_embedder, load_trained):
            torch.testing.assert_close(vectors(load(folder)), vectors(embedder), atol=1e-5, rtol=0)
    for folder in ("writer", "again"):
        assert isinstance(load_trained(folder), VLMReasoner)
        assert isinstance(load_reasoner(folder), VLMReasoner)
    card = (tmp_path / "model/README.md").read_text()
    assert "library_name: sentence-transformers" in card
    assert f"trained with embedrl from `embedrl:tiny/{name}`" in card
    assert 'embedrl.Embedder.from_pretrained("model")' in card
    assert "QwenVL" not in card
    capsys.readouterr()
    reason = ["reason", "--text", "a red star", "--max_new_tokens", "4", "--checkpoint"]
    for checkpoint in ("writer", f"embedrl:tiny/{name}"):
        assert cli.main([*reason, checkpoint]) == 0, capsys.readouterr().err
        assert f"{checkpoint} knows the built-in world alone" in capsys.readouterr().err
    assert cli.main([*reason, "model"]) == 1
    assert "an Embedder's, which writes nothing" in capsys.readouterr().err


def test_a_tiny_family_is_a_checkpoint_like_any_other():
    model = load_embedder(f"embedrl:tiny/{QUICK}")
    assert type(model) is VLMBackbone
    with pytest.raises(CheckpointError, match="does not say whether it is an Embedder or a Reasoner"):
        load_trained(f"embedrl:tiny/{QUICK}")
    with pytest.raises(CheckpointError, match="embedrl:tiny/gone does not exist: choose one of"):
        load_embedder("embedrl:tiny/gone")


class Own(PatchGrids):
    """A family of one's own."""


def written(folder, options):
    folder.mkdir(exist_ok=True)
    content = {"format": 1, "model": "embedrl.VLMBackbone", "options": options}
    (folder / "embedrl_config.json").write_text(json.dumps(content))
    return str(folder)


def test_a_family_is_kept_and_one_of_ones_own_must_be_given(tmp_path):
    own = VLMBackbone(f"embedrl:tiny/{QUICK}", family=Own())
    path = written(tmp_path / "own", json.loads(json.dumps(own.settings.plain())))
    with pytest.raises(CheckpointError, match=r"own: trained with the family .*\.Own, a class of your own: give it as"):
        _ = VLMBackbone(path).differences
    assert type(VLMBackbone(path, family=Own()).differences) is Own
    other = VLMBackbone(f"embedrl:tiny/{QUICK}", family=PicturesByRow())
    path = written(tmp_path / "other", other.settings.plain())
    assert type(VLMBackbone(path).differences) is PicturesByRow
    assert type(VLMBackbone(f"embedrl:tiny/{QUICK}").differences) is PixelCoordinates


def test_an_option_is_stronger_than_what_a_folder_says(tmp_path):
    stored = {"image_pixels": {"min_pixels": 1, "max_pixels": 9}, "image_settings": {"a": 1, "b": 1}}
    path = written(tmp_path, stored)
    assert load_settings(path) == PictureSettings(PixelBudget(1, 9), {"a": 1, "b": 1})
    settings = VLMBackbone(path, image_pixels=PixelBudget(4, 4), image_settings={"b": 2}).settings
    assert settings == PictureSettings(PixelBudget(4, 4), {"a": 1, "b": 2})


BROKEN = {
    "budget": {"image_pixels": {"min_pixels": 9, "max_pixels": 1}},
    "key": {"image_pixels": {"least": 9}},
    "kind": {"image_pixels": 7},
    "settings": {"image_settings": 7},
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_options_are_one_error(case, tmp_path):
    with pytest.raises(CheckpointError, match=r"embedrl_config\.json: broken options .*: export it again"):
        load_settings(written(tmp_path, BROKEN[case]))


def test_budgets_of_evidence_are_not_left_out_in_silence(tmp_path):
    path = written(tmp_path, {"image_pixels": None, "evidence_pixels": {"min_pixels": 1, "max_pixels": 9}})
    with pytest.raises(CheckpointError, match=r"trained with evidence_pixels, which only embedrl\..* reads"):
        load_settings(path)
