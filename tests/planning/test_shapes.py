"""Shapes of checkpoints that are not on this machine."""

import json

import pytest

from embedrl.errors import CheckpointError
from embedrl.models.vlm.backbone import VLMBackbone
from embedrl.models.vlm.loading import load_config, load_processor
from embedrl.planning.build import build_on_meta
from embedrl.planning.pictures import PictureReader
from embedrl.planning.shapes import FAMILIES, find_shape, known_names

ROWS = json.loads(FAMILIES.read_text())["checkpoints"]
SMALL = "HuggingFaceTB/SmolVLM-256M-Instruct"


@pytest.mark.parametrize("name", [SMALL, *(pytest.param(n, marks=pytest.mark.slow) for n in ROWS if n != SMALL)])
def test_a_shape_of_the_table_has_the_published_number_of_parameters(name):
    row = ROWS[name]
    planned, notes = build_on_meta(VLMBackbone(name))
    count = sum(p.numel() for p in planned.parameters())
    # Others are published rounded, or with weights that transformers does not load.
    assert count == (row["parameters"] if row.get("exact") else pytest.approx(row["parameters"], rel=0.03))
    assert notes == [f"{name}: config.json is not at hand; shape taken from the shipped table ({name})"]
    assert row["source"]


def test_a_missing_shape_may_be_given_as_a_folder(tmp_path):
    with pytest.raises(CheckpointError, match=r"some/model: its config\.json is not on this machine.*--shapes"):
        find_shape("some/model")
    base = "embedrl:tiny/internvl"
    load_config(base).save_pretrained(tmp_path)
    load_processor(base).image_processor.save_pretrained(tmp_path)
    planned, notes = build_on_meta(VLMBackbone("some/model"), str(tmp_path))
    assert notes == [f"some/model: shape taken from {tmp_path} (--shapes)"]
    picture = PictureReader(planned, 4).read("image", (96, 96))
    assert picture.features == load_processor(base).image_seq_length * planned.core.config.text_config.hidden_size


def test_a_family_is_planned_by_the_class_that_reads_it():
    from embedrl.models.qwen_vl.backbone import QwenVLBackbone

    with pytest.raises(CheckpointError, match="model_type is 'idefics3', not 'qwen3_vl': use VLMBackbone"):
        build_on_meta(QwenVLBackbone(SMALL))
    assert SMALL in known_names()
