"""The cheap checks: what each refuses and what it lets pass."""

import io
from dataclasses import dataclass

import pytest
from PIL import Image, ImageDraw

from embedrl.construction.checks import Checks, gradients
from embedrl.data.world.source import WorldSource
from embedrl.errors import ConfigError
from embedrl.tcot.parser import build
from embedrl.types import Modality, Pair, Side


@dataclass(frozen=True)
class Drawn:
    """A white rectangle in the upper left quarter of a grey picture."""

    name: str = "drawn"
    size: tuple = (200, 100)

    def load(self):
        image = Image.new("RGB", self.size, (90, 90, 90))
        corner = (self.size[0] // 2 - 1, self.size[1] // 2 - 1)
        ImageDraw.Draw(image).rectangle((self.size[0] // 8, self.size[1] // 8, *corner), fill="white")
        return image


@dataclass(frozen=True)
class Still:
    image: Image.Image
    name: str = "still"

    def load(self):
        return self.image


def tcot(modality, **cues):
    defaults = {"keywords": ["red star"], "boxes": [(0, 0, 500, 500)], "frames": [1]}
    return build(modality, "seen", "kept", "said", **{**defaults, **cues}).render()


QUERY = Side("where is the red star?", tcot=tcot(Modality.TEXT))
IMAGE = Side("", (Drawn(),), tcot=tcot(Modality.IMAGE))
VIDEO = Side("", frames=(Drawn(),) * 2, tcot=tcot(Modality.VIDEO))


def pair(query=QUERY, target=IMAGE):
    return Pair(query, target, "set", "1")


BOX = tcot(Modality.IMAGE)
ONE_BOX = BOX.replace("[[0, 0, 500, 500]]", "[0, 0, 500, 500]")


@pytest.mark.parametrize(
    ("names", "given", "cause"),
    [
        ([], pair(), ""),
        ([], pair(target=IMAGE.with_tcot(" ")), "no_tcot"),
        (["format"], pair(), ""),
        (["format"], pair(target=VIDEO), ""),
        (["format"], pair(target=IMAGE.with_tcot(BOX + "more")), "format"),
        (["evidence"], pair(target=IMAGE.with_tcot(BOX + "more")), ""),
        (["evidence"], pair(target=IMAGE.with_tcot(BOX.replace("500, 500", "500, 1500"))), "evidence"),
        (["evidence"], pair(target=IMAGE.with_tcot(BOX.replace("[[0, 0, 500, 500]]", "[]"))), "evidence"),
        (["evidence"], pair(target=IMAGE.with_tcot(tcot(Modality.IMAGE, boxes=[(600, 600, 900, 900)]))), "evidence"),
        (["evidence"], pair(target=VIDEO.with_tcot(tcot(Modality.VIDEO, frames=[3]))), "evidence"),
        (["evidence"], pair(target=VIDEO.with_tcot(tcot(Modality.VIDEO, frames=[2]))), ""),
        (["evidence"], pair(QUERY.with_tcot(tcot(Modality.TEXT, keywords=["a moon"]))), ""),
        (["keywords"], pair(QUERY.with_tcot(tcot(Modality.TEXT, keywords=["a moon"]))), "keywords"),
        (["keywords"], pair(QUERY.with_tcot(tcot(Modality.TEXT, keywords=["Red  STAR!"]))), ""),
    ],
)
def test_checks_of_a_side(names, given, cause):
    assert Checks(names)(given)[0] == cause


@pytest.mark.parametrize(("strict", "text", "cause"), [
    (False, ONE_BOX, ""), (True, ONE_BOX, "format"), (True, BOX, ""), (False, BOX, ""),
])  # fmt: skip
def test_one_box_passes_unless_a_list_is_asked_for(strict, text, cause):
    assert Checks(["format", "evidence"], strict)(pair(target=IMAGE.with_tcot(text)))[0] == cause
    assert Checks(["evidence"], strict)(pair(target=IMAGE.with_tcot(text)))[0] == ""


def test_duplicates_are_equal_in_query_and_target():
    check = Checks(["duplicate"])
    assert check(pair())[0] == ""
    assert check(pair())[0] == "duplicate"
    assert check(pair(QUERY.with_tcot(tcot(Modality.TEXT, keywords=["other"]))))[0] == "duplicate"
    assert check(pair(Side("another", tcot=QUERY.tcot)))[0] == ""


def near(*texts):
    """What the check says about targets with these texts, one after the other."""
    check = Checks(["near_duplicate_text"])
    return [check(pair(Side(str(i), tcot=QUERY.tcot), Side(t or "x", tcot=QUERY.tcot)))[0] for i, t in enumerate(texts)]


def test_near_duplicate_texts_are_refused_but_equal_ones_pass():
    texts = ["a red star", "a red star", "A red star.", "a  RED\nstar", "a red star !", "a blue star", "", "!?", "?!"]
    assert near(*texts) == ["", "", *["near_duplicate_text"] * 3, "", "", "", ""]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("it’s red", "It's red."),
        ("“red” star", '"Red" star'),
        ("3–5 stars", "3-5 stars"),
        ("minus \u22125", "minus -5"),
        ("caf\u00e9", "cafe\u0301"),
        ("किला", "किला।"),
        ("红星。", "红星"),
    ],
)
def test_what_says_the_same_is_a_near_duplicate(one, other):
    assert near(one, other) == ["", "near_duplicate_text"]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("C++", "C#"),
        ("C++", "C"),
        ("F#.", "F."),
        (".NET", "net"),
        ("किला", "काला"),
        ("किला", "कला"),
        ("กา", "กี"),
        ("كَتَبَ", "كُتُبٌ"),
        ("שָׁלוֹם", "שלום"),
        ("がき", "かき"),
        ("schön", "schon"),
        ("Maße", "Masse"),
        ("año", "ano"),
        ("-5", "5"),
        ("−5 °C", "5 °C"),
        ("3.5 m", "35 m"),
        ("1,5", "1.5"),
        ("m²", "m2"),
        ("2⁵", "25"),
        ("½ cup", "12 cup"),
        ("5!", "5"),
        ("n!", "n"),
        ("a != b", "a = b"),
        ("¬p", "p"),
        ("x > y", "x < y"),
        ("10%", "10"),
        ("$5", "€5"),
        ("A+", "A-"),
        ("@home", "home"),
        ("#1", "1"),
        ("a/b", "a b"),
        ("a_b", "a b"),
        ("re-sign", "resign"),
        ("man-eating shark", "man eating shark"),
        ("it is red?", "it is red."),
        ("U.S.", "us"),
        ("not red", "red"),
        ("cannot", "can not"),
        ("👍", "👎"),
        ("👍🏽", "👍🏿"),
        ("❤️", "💙"),
        ("می‌خواهم", "میخواهم"),
    ],
)
def test_signs_and_marks_that_change_the_meaning_are_kept(one, other):
    assert near(one, other) == near(other, one) == ["", ""]


@pytest.mark.parametrize(
    ("text", "word", "stands"),
    [
        ("it’s a red star", "IT'S a  red", True),
        ("where is the red star?", "Red star!", True),
        ("written in C++", "C++", True),
        ("written in C++", "C#", False),
        ("काला घर", "काला", True),
        ("काला घर", "किला", False),
        ("at 5 degrees", "-5", False),
        ("schon da", "schön", False),
    ],
)
def test_keywords_stand_in_the_text_with_their_signs(text, word, stands):
    query = Side(text, tcot=tcot(Modality.TEXT, keywords=[word]))
    assert Checks(["keywords"])(pair(query))[0] == ("" if stands else "keywords")


def test_near_duplicate_pictures():
    check = Checks(["near_duplicate_picture"])

    def target(*images, text=""):
        return pair(target=Side(text, images, tcot=BOX))

    assert check(target(Drawn("a")))[0] == ""
    assert check(target(Drawn("a")))[0] == ""
    original, buffer = Drawn().load(), io.BytesIO()
    original.save(buffer, "jpeg", quality=60)
    for name, copy in {"small": original.resize((100, 50)), "jpeg": Image.open(buffer)}.items():
        assert check(target(Still(copy, name)))[0] == "near_duplicate_picture"
        assert check(target(Still(copy, name), text=f"the star, {name}"))[0] == ""
    assert check(target(Still(original.rotate(90, expand=True), "turned")))[0] == ""


def test_the_worlds_hard_negatives_are_no_near_duplicates():
    """Close-ups that differ in their mark alone: what contrastive training lives on."""
    source = WorldSource("grounding", size=40, teacher="perfect", alike=4)
    pairs = [source[i] for i in range(len(source))]
    looks = {gradients(one.target.images[0]) for one in pairs}
    assert len(looks) == len({one.target.key for one in pairs})
    check = Checks(["format", "evidence", "duplicate", "near_duplicate_text", "near_duplicate_picture"])
    assert {check(one)[0] for one in pairs} == {""}


def test_an_unknown_check_is_named():
    with pytest.raises(ConfigError, match="near_picture"):
        Checks(["near_picture"])
