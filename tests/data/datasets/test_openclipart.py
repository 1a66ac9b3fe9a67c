import pytest
from PIL import Image

from embedrl.data.datasets.openclipart import PICTURES, TAGS, OpenClipartTasks, read_tags
from embedrl.errors import ConfigError, DataError

SVG = """<svg xmlns="http://www.w3.org/2000/svg"><metadata><rdf:RDF><cc:Work rdf:about=""><dc:title>x</dc:title>
<dc:subject><rdf:Bag>{}</rdf:Bag></dc:subject></cc:Work></rdf:RDF></metadata><rdf:li>not a tag</rdf:li></svg>"""


@pytest.fixture
def root(tmp_path):
    """Both packages, unpacked below one folder."""

    def drawing(name, *tags, link=None):
        png = tmp_path / PICTURES.folder / f"{name}.png"
        svg = tmp_path / TAGS.folder / f"{name}.svg"
        for path in (png, svg):
            path.parent.mkdir(parents=True, exist_ok=True)
        if link:
            png.symlink_to(link)
        else:
            Image.new("RGBA", (5, 4), (0, 0, 0, 0)).save(png)
        svg.write_text(SVG.format("".join(f"<rdf:li>{tag}</rdf:li>" for tag in tags)), encoding="utf-8")

    drawing("food/apple", "Fruit", "food", "red  apple", "hash(0x8a1)", "")
    drawing("food/pear", "fruit", "food", "unique")
    drawing("food/cards/king", "fruit", "card")
    drawing("animals/cat", "animal", "Big_Cat", "food", "&lt;b&gt;")
    drawing("animals/copy", "red-apple", "pet", link="../food/apple.png")
    drawing("animals/elsewhere", "pet", link="../computer/mouse.png")
    drawing("computer/icon", "food")
    return tmp_path


def tasks(root, **options):
    options = {"folders": ["animals", "food"], "at_least": 1, "at_most": 2, **options}
    (task,) = OpenClipartTasks(str(root), str(root), **options).tasks()
    found = [[task.candidate_ids[i] for i in judged] for judged in task.qrels]
    return task, {side.text: ids for side, ids in zip(task.queries, found, strict=True)}


def test_a_tag_retrieves_every_drawing_that_has_it(root):
    task, found = tasks(root)
    assert task.candidate_ids == ["animals/cat", "food/apple", "food/pear"]
    assert [side.images[0].name for side in task.candidates] == [f"openclipart/{name}" for name in task.candidate_ids]
    assert found == {
        "animal": ["animals/cat"],
        "big cat": ["animals/cat"],
        "fruit": ["food/apple", "food/pear"],
        "pet": ["food/apple"],  # the tag of a copy
        "red apple": ["food/apple"],
        "unique": ["food/pear"],
    }
    assert set(tasks(root, at_least=2, at_most=3)[1]) == {"fruit", "food"}
    assert "card" in tasks(root, exclude=())[1]
    assert task.candidates[0].images[0].load().getpixel((2, 2)) == (255, 255, 255)


def test_leaves_out_drawings_that_are_too_large(root):
    Image.new("L", (21, 1)).save(root / PICTURES.folder / "food/pear.png")
    task, found = tasks(root, max_pixels=20)
    assert task.candidate_ids == ["animals/cat", "food/apple"]
    assert found["fruit"] == ["food/apple"]
    assert "unique" not in found


def test_reads_tags(tmp_path):
    path = tmp_path / "a.svg"
    path.write_bytes(SVG.format("<rdf:li>Caf\xe9</rdf:li><rdf:li> Big\n-_ Cat </rdf:li>").encode("latin-1"))
    assert "big cat" in read_tags(path)
    path.write_text("<svg/>")
    assert read_tags(path) == set()


def test_errors_name_the_place(root, tmp_path):
    with pytest.raises(DataError, match=r"png does not exist: run python scripts/fetch_real_small\.py, or set root"):
        OpenClipartTasks(str(tmp_path / "nowhere"), str(root)).tasks()
    with pytest.raises(DataError, match=r"no PNG pictures below .*plants"):
        tasks(root, folders=["food", "plants"])
    with pytest.raises(DataError, match=r"no tag has 7 to 9 of the 3 drawings"):
        tasks(root, at_least=7, at_most=9)
    with pytest.raises(ConfigError, match="give 1 <= at_least <= at_most"):
        OpenClipartTasks(at_least=3, at_most=2)
    cat = root / PICTURES.folder / "animals/cat.png"
    cat.write_bytes(cat.read_bytes()[:45])
    with pytest.raises(DataError, match=r"cannot (open|decode) picture .*animals/cat\.png"):
        tasks(root)[0].candidates[0].images[0].load()
    cat.write_bytes(b"broken")
    with pytest.raises(DataError, match=r"animals/cat\.png is no PNG picture"):
        tasks(root)
    Image.new("L", (5, 4)).save(cat)
    (root / TAGS.folder / "food/pear.svg").unlink()
    with pytest.raises(DataError, match=r"cannot read the tags in .*pear\.svg"):
        tasks(root)


@pytest.mark.slow
def test_the_real_drawings():
    if not (PICTURES.root.is_dir() and TAGS.root.is_dir()):
        pytest.skip(f"no drawings at {PICTURES.root}: python scripts/fetch_real_small.py")
    (task,) = OpenClipartTasks().tasks()
    assert (len(task.queries), len(task.candidates)) == (233, 1831)
    assert all(3 <= len(judged) <= 20 for judged in task.qrels)
