import hashlib
import json
import re
import subprocess
import sys
from itertools import product

import pytest

from embedrl.tcot.parser import parse
from embedrl.tcot.prompts import Situation, prompt, situation
from embedrl.tcot.schema import CUE_KEY
from embedrl.types import Modality, Role

TEXT, IMAGE, VIDEO = Modality.TEXT, Modality.IMAGE, Modality.VIDEO


@pytest.mark.parametrize(
    ("side", "role", "counterpart", "expected"),
    [
        (TEXT, Role.QUERY, IMAGE, "query_text_for_image"),
        (TEXT, Role.QUERY, TEXT, "query_text_for_image"),
        (TEXT, Role.QUERY, VIDEO, "query_text_for_video"),
        (IMAGE, Role.QUERY, TEXT, "query_image"),
        (VIDEO, Role.QUERY, IMAGE, "query_video"),
        (TEXT, Role.TARGET, VIDEO, "target_text"),
        (IMAGE, Role.TARGET, TEXT, "target_image"),
        (VIDEO, Role.TARGET, TEXT, "target_video"),
    ],
)
def test_situation(side, role, counterpart, expected):
    assert situation(side, role, counterpart) == expected


def test_all_seven_situations_are_reached():
    reached = {situation(*case): case[0] for case in product(Modality, Role, Modality)}
    assert len(reached) == len(Situation) == 7
    assert all(found.modality == side for found, side in reached.items())


@pytest.mark.parametrize("name", Situation)
def test_full_prompt_asks_for_the_right_cue_and_shows_a_valid_one(name):
    text = prompt(name)
    key = CUE_KEY[name.modality]
    assert [k for k in CUE_KEY.values() if k in text] == [key]
    (example,) = re.findall(r"\{.*?\}", text)
    assert list(json.loads(example)) == [key]
    assert parse(f"<thinking>{example}</thinking><rethink>r</rethink><answer>a</answer>", name.modality, 8).ok
    positions = [text.index(f"<{tag}>") for tag in ("thinking", "rethink", "answer")]
    assert positions == sorted(positions)


@pytest.mark.parametrize("style", ["full", "brief"])
def test_prompts_differ(style):
    assert len({prompt(name, style) for name in Situation}) == 7


def test_brief_prompts_are_one_short_line():
    assert all(len(prompt(name, "brief")) < 40 and "\n" not in prompt(name, "brief") for name in Situation)


def test_prompts_change_on_purpose_alone():
    """Stored T-CoTs answer these prompts, and checkpoints were trained on them: when this fails, mean it."""
    prompts = "\n".join(prompt(name, style) for name in Situation for style in ("full", "brief"))
    assert hashlib.sha256(prompts.encode()).hexdigest()[:12] == "f1dbee331089"


def test_tcot_needs_neither_torch_nor_pil():
    code = (
        "import sys, embedrl.types, embedrl.errors, embedrl.tcot.parser, embedrl.tcot.evidence, embedrl.tcot.prompts\n"
        "print([m for m in ('torch', 'PIL', 'numpy', 'transformers') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
