"""The documentation is true: its snippets run, its commands parse, and what it names exists."""

from __future__ import annotations

import importlib
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from embedrl import cli

ROOT = Path(__file__).parents[1]
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in [*ROOT.glob("*.md"), *sorted((ROOT / "docs").rglob("*.md")), ROOT / ".github/pull_request_template.md"]
}
TRUE_TODAY = [page for page in PAGES if page != "CHANGELOG.md"]  # which tells what was
BLOCK = re.compile(r"^( *)```(\w+)[^\n]*\n(.*?)^\1```", re.DOTALL | re.MULTILINE)
FILE = re.compile(r"\A# (my_\S+)\n")


def blocks(page: str, language: str) -> list[str]:
    return [text for _, kind, text in BLOCK.findall(PAGES[page]) if kind == language]


# -------------------------------------------------------------------------------------------- snippets


def write_files(page: str, folder: Path) -> dict[str, str]:
    """The page's snippets that begin with the name of a file, as files."""
    found = {}
    for text in (*blocks(page, "python"), *blocks(page, "yaml")):
        if name := FILE.match(text):
            found[name[1]] = text
            path = folder / name[1]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    return found


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working folder from which Python imports."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in [module for module in sys.modules if module.partition(".")[0] in ("my_package", "my_data")]:
        del sys.modules[name]


def test_extending_snippets_train_together(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = write_files("docs/tutorials/extending.md", here)
    assert set(files) == {
        *(f"my_package/{room}.py" for room in ("backbone", "family", "data", "loss", "metric")),
        *("my_recipe.yaml", "my_family.yaml"),
    }
    for name, text in files.items():
        if name.endswith(".py"):
            tail = text[text.index("class ") :]
            assert len(tail.strip().splitlines()) <= 32, f"{name} is no longer short"
    assert cli.main(["fit", "--config", "my_recipe.yaml"]) == 0, capsys.readouterr().err
    assert list((here / "runs").rglob("*.ckpt"))
    assert {"hit@1", "margin@2"} <= {name.rpartition("/")[2] for name in curves(here / "runs")}


def test_a_family_of_ones_own_reads_pictures_as_it_says(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from PIL import Image

    write_files("docs/tutorials/extending.md", here)
    name = importlib.import_module("my_package.family").Tiles
    flags = ["fit", "--config", str(ROOT / "configs/quickstart/embedder.yaml"), "--model.backbone", "my_family.yaml"]
    with pytest.raises(SystemExit):
        cli.main([*flags, "--print_config"])
    config = yaml.safe_load(capsys.readouterr().out)["model"]["init_args"]["backbone"]["init_args"]
    assert config["family"]["class_path"] == "my_package.family.Tiles"
    from embedrl.models import PixelBudget, VLMBackbone

    backbone = VLMBackbone(config["path"], family=name(), image_pixels=PixelBudget(**config["image_pixels"]))
    chat = [{"role": "user", "content": [{"type": "image", "image": Image.new("RGB", (200, 200))}]}]
    assert len(backbone.preprocessor()([chat])["pixel_values"]) == 5  # four tiles and the whole


def curves(runs: Path) -> set[str]:
    """Names of the curves that were logged below a folder."""
    names: set[str] = set()
    for file in runs.rglob("events*"):
        events = EventAccumulator(str(file))
        events.Reload()
        names |= set(events.Tags()["scalars"])
    return names


def test_the_tutorial_on_ones_own_data_trains(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = "docs/tutorials/your_data.md"
    assert set(write_files(page, here)) == {"my_data/make.py"}
    subprocess.run([sys.executable, "my_data/make.py"], check=True)
    data_import, fit = (words for words in commands(page) if words[0] in ("data", "fit") and "stats" not in words)
    assert cli.main(data_import) == 0, capsys.readouterr().err
    out = capsys.readouterr().out
    assert [line.rstrip() for line in out.splitlines()] == blocks(page, "text")[0].splitlines()
    assert out.splitlines()[-1] == f"Next: embedrl {shlex.join(fit)}"
    short = ["--trainer.max_steps", "2", "--trainer.val_check_interval", "2"]
    assert cli.main([*fit, *short]) == 0, capsys.readouterr().err
    assert "hit@10" in capsys.readouterr().out
    assert list((here / "runs/own_data").rglob("last.ckpt"))
    exec(compile(blocks(page, "python")[1], page, "exec"), {"__name__": "snippet"})
    assert (here / "my_mix/mix.yaml").is_file()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the quickstart leaves, but with random weights."""
    from embedrl import QwenVLBackbone

    folder = tmp_path_factory.mktemp("model")
    backbone = QwenVLBackbone("embedrl:tiny")
    backbone.build()
    backbone.export(folder)
    return folder


PYTHON_PAGES = (
    "README.md",
    "docs/how_to/python.md",
    "docs/how_to/export.md",
    "docs/how_to/mteb.md",
    "docs/how_to/search.md",
    "docs/how_to/answer.md",
)
SLOW = re.compile(r"embedrl\.mteb|embedder\.fit\(|answer_question")
PYTHON = [
    pytest.param(page, i, marks=pytest.mark.slow if SLOW.search(text) else ())
    for page in PYTHON_PAGES
    for i, text in enumerate(blocks(page, "python"))
]


@pytest.mark.parametrize(("page", "number"), PYTHON)
@pytest.mark.filterwarnings("ignore")
def test_python_runs_as_it_stands(page: str, number: int, model: Path, here: Path) -> None:
    from PIL import Image

    (here / "runs/quickstart_embedder").mkdir(parents=True)
    (here / "runs/quickstart_embedder/model").symlink_to(model)
    Image.new("RGB", (96, 64), "red").save("scene.png")
    text = blocks(page, "python")[number]
    if "embedrl.mteb" in text:
        pytest.importorskip("mteb")
    if "embedrl.Index" in text or "embedrl.index" in text:
        pytest.importorskip("lancedb")
    if "sentence_transformers" in text:
        pytest.importorskip("sentence_transformers")
    exec(compile(text, f"{page}, snippet {number}", "exec"), {"__name__": "snippet"})


def test_ten_lines_are_about_ten() -> None:
    (text,) = blocks("README.md", "python")
    assert len([line for line in text.splitlines() if line.strip()]) <= 12


@pytest.mark.parametrize("page", TRUE_TODAY)
def test_yaml_is_yaml(page: str) -> None:
    for text in blocks(page, "yaml"):
        assert yaml.safe_load(text), text


# -------------------------------------------------------------------------------------------- commands


def commands(page: str) -> list[list[str]]:
    """The words behind `embedrl` of every command in the page's shell snippets and inline code."""
    lines = [line for text in blocks(page, "bash") for line in text.replace("\\\n", " ").splitlines()]
    prose = BLOCK.sub("", PAGES[page])
    lines += [code for code in re.findall(r"`(embedrl [^`]+)`", prose) if "COMMAND" not in code and "|" not in code]
    found = []
    for line in lines:
        words = shlex.split(line, comments=True)
        if "embedrl" in words and "install" not in words[: words.index("embedrl")]:
            found.append(words[words.index("embedrl") + 1 :])
    return [words for words in found if words and not words[0].startswith("-")]


@pytest.mark.parametrize("page", TRUE_TODAY)
def test_commands_exist_and_their_recipes_too(page: str) -> None:
    for words in commands(page):
        name, _ = cli._split(words)
        assert name in cli.COMMANDS, f"{page}: embedrl {' '.join(words)}"
        for word in words:
            if word.startswith("configs/") and "*" not in word:
                assert (ROOT / word).is_file(), f"{page} names {word}"


def parsable() -> list[str]:
    """The documented commands that read nothing but recipes."""
    every = {shlex.join(words) for page in TRUE_TODAY for words in commands(page) if "--help" not in words}
    local = re.compile(r"--[\w.]+[ =](?!configs/)\S+\.yaml| my_|FILE|FOLDER|CLASS|\.\.\.|…|\*")
    return sorted(line for line in every if re.search(r" --[\w.]+[ =]", line) and not local.search(line))


@pytest.mark.slow
@pytest.mark.parametrize("line", parsable())
@pytest.mark.filterwarnings("ignore")
def test_documented_options_parse(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EMBEDRL_DATA", str(tmp_path))
    for step in ("annotated", "kept"):  # what an earlier command of the page writes
        (tmp_path / step).mkdir()
        (tmp_path / step / "mix.yaml").write_text("[]\n")
    words = shlex.split(line.replace("$EMBEDRL_DATA", str(tmp_path)).replace("/data/kept", f"{tmp_path}/kept"))
    name, rest = cli._split(words)
    if name == "recipes" or cli.COMMANDS[name].positional:
        return
    try:
        code = cli.main([*name.split(), *rest, "--print_config"])
    except SystemExit as done:
        code = done.code
    assert code in (0, None), capsys.readouterr().err


# -------------------------------------------------------------------------------------------- names


def resolve(name: str) -> object:
    """A dotted name: a module, or an attribute of one (a field of a dataclass counts)."""
    parts = name.split(".")
    found: object = importlib.import_module(parts[0])
    for i, part in enumerate(parts[1:], start=2):
        if part in getattr(found, "__annotations__", {}):
            return found
        if not hasattr(found, part):
            importlib.import_module(".".join(parts[:i]))
        found = getattr(found, part)
    return found


DOTTED = re.compile(r"(?<![\w/.:-])embedrl(?:\.[A-Za-z_]\w*)+")


@pytest.mark.parametrize("page", TRUE_TODAY)
def test_dotted_names_exist(page: str) -> None:
    missing = []
    for name in sorted(set(DOTTED.findall(PAGES[page]))):
        try:
            resolve(name)
        except (ImportError, AttributeError) as error:
            missing.append(f"{name}: {error}")
    assert not missing, f"{page}: " + "; ".join(missing)


PATH = re.compile(r"(?<![\w/.:$}-])(?:embedrl|configs|tests|benchmarks|scripts|docs|\.github|\.ci)/[\w./*{},-]*")


def spelled_out(path: str) -> list[str]:
    """A path with `{a,b}` as several."""
    braces = re.search(r"\{([^}]*)\}", path)
    if not braces:
        return [path]
    head, tail = path[: braces.start()], path[braces.end() :]
    return [more for part in braces[1].split(",") for more in spelled_out(head + part + tail)]


@pytest.mark.parametrize("page", TRUE_TODAY)
def test_repository_paths_exist(page: str) -> None:
    for found in set(PATH.findall(PAGES[page])):
        for path in spelled_out(found.rstrip(".,")):
            assert list(ROOT.glob(path)) if "*" in path else (ROOT / path).exists(), f"{page} names {path}"


@pytest.mark.parametrize("page", TRUE_TODAY)
def test_pages_name_tests_that_exist(page: str) -> None:
    for path, test in re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGES[page]):
        assert f"def {test}(" in (ROOT / path).read_text(encoding="utf-8"), (
            f"{page} names {path}::{test}, which is gone"
        )


def test_the_method_names_a_test_for_every_row() -> None:
    table = PAGES["docs/explanation/method.md"].split("\n## ")[0]
    rows = [line for line in table.splitlines() if line.startswith("| ")][1:]
    assert len(rows) > 25
    assert all("::test_" in row for row in rows)


def test_the_house_shows_every_room() -> None:
    page = PAGES["docs/explanation/house.md"]
    rooms = [path.parent for path in (ROOT / "embedrl").glob("*/__init__.py")]
    assert [room.name for room in rooms if f"`embedrl/{room.name}`" not in page] == []
    questions = page.split("## The map")[1].split("## ")[0].splitlines()
    rows = [row for row in questions if row.startswith("| ")][1:]
    assert len(rows) == 10
    assert all(PATH.search(row) for row in rows)


def test_results_state_the_size_at_which_the_towers_see() -> None:
    towers = json.loads((ROOT / "embedrl/assets/open_clip/lite0_minilm.json").read_text(encoding="utf-8"))
    size = towers["model_cfg"]["vision_cfg"]["image_size"]
    assert f"OpenCLIP sees a page at {size} x {size} pixels" in PAGES["docs/results.md"]


# -------------------------------------------------------------------------------------------- links


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and MkDocs make them."""
    headings = re.findall(r"^#+ (.*)$", BLOCK.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[\s]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower()) for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for target, _, anchor in re.findall(r"\]\(([^)#:\s]*)(#([^)]*))?\)", BLOCK.sub("", PAGES[page])):
        path = (ROOT / page).parent / target if target else ROOT / page
        assert path.exists(), f"{page} links to {target}"
        assert not anchor or anchor in anchors(path), f"{page} links to {target}#{anchor}"


# -------------------------------------------------------------------------------------------- the site


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_site_builds_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    pages = {
        path.relative_to(tmp_path).as_posix(): path.read_text(encoding="utf-8") for path in tmp_path.rglob("*.html")
    }
    loads = re.compile(
        r"<(?:script|img|iframe)\b[^>]*\bsrc=\"(?:https?:)?//|<link\b[^>]*\bhref=\"(?:https?:)?//[^>]*stylesheet"
    )
    assert [name for name, text in pages.items() if loads.search(text)] == []
    commands_page, yaml_page = pages["reference/commands.html"], pages["reference/yaml.html"]
    assert all(f'id="embedrl-{name.replace(" ", "-")}"' in commands_page for name in cli.COMMANDS)
    named = {
        name
        for path in (ROOT / "configs").rglob("*.yaml")
        for name in re.findall(r"class_path: (embedrl\.[\w.]+)", path.read_text(encoding="utf-8"))
    }
    assert len(named) > 20
    assert sorted(name for name in named if f'id="{name}"' not in yaml_page) == []
    assert "Pairs in a sub-batch, which holds one data set" in yaml_page
    rooms = [path.parent.relative_to(ROOT) for path in (ROOT / "embedrl").rglob("__init__.py")]
    assert all(f"reference/api/{'.'.join(room.parts)}.html" in pages for room in rooms)
