import pytest
from PIL import Image

from embedrl.answer import Answer, AnswerSource
from embedrl.data.inserter import Placement
from embedrl.errors import ConfigError
from embedrl.index.hits import Hit
from embedrl.types import Modality

TCOT = '<thinking>{"bbox_2d": [[0, 0, 500, 500]]}</thinking><rethink>x</rethink><answer>a crimson animal</answer>'
RED, BLUE = (Image.new("RGB", (60, 40), color) for color in ("red", "blue"))


@pytest.fixture
def answer():
    hits = (
        Hit(0.9, "k1", {"text": "a fox"}, "../../photos/fox ](x).png", Modality.IMAGE, tcot=TCOT),
        Hit(0.8, "k2", {"text": "words <b>alone</b>"}, "texts.csv"),
        Hit(0.7, "k3", {}, "dir/owl.png", Modality.IMAGE),
    )
    images = (RED, None, BLUE)
    sources = tuple(AnswerSource(i, hit, image) for i, (hit, image) in enumerate(zip(hits, images, strict=True), 1))
    text = "A fox hunts [1]. ![x](file:///etc/passwd) is no picture.\n\nAn owl, too."
    return Answer("who hunts ?", text, sources, (Placement(3, 3), Placement(1, 1)))


def test_the_page(answer):
    assert answer.markdown() == (
        "A fox hunts \\[1\\].\n\n"
        "![a fox a crimson animal](pictures/1.jpg)\n\n"
        "!\\[x\\](file:///etc/passwd) is no picture.\n\n"
        "An owl, too.\n\n"
        "![owl.png](pictures/3.jpg)\n\n"
        "## Sources\n\n"
        "1. a fox a crimson animal (../../photos/fox \\](x).png)\n"
        "2. words \\<b\\>alone\\</b\\> (texts.csv)\n"
        "3. owl.png (dir/owl.png)\n"
    )
    assert "(picture 3: owl.png)" in answer.markdown(None)
    assert answer._repr_markdown_() == answer.markdown(None)


def test_the_folder_holds_the_page_and_its_pictures_alone(answer, tmp_path):
    page = answer.save(tmp_path / "out")
    assert page.read_text() == answer.markdown()
    files = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert files == {"out/answer.md", "out/pictures/1.jpg", "out/pictures/3.jpg"}
    with Image.open(tmp_path / "out/pictures/3.jpg") as image:
        assert image.size == (60, 40)
        assert image.getpixel((9, 9))[2] > 200
    with pytest.raises(ConfigError, match="there is something already"):
        answer.save(tmp_path / "out")


def test_half_a_character_is_written_as_its_number(tmp_path):
    page = Answer("?", "A \ud800 fox.", ()).save(tmp_path)
    assert page.read_text().startswith("A \\ud800 fox.")
