"""Recipes that come with the package: how a command finds them, and a wheel that carries all it needs."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from embedrl.cli import main
from embedrl.commands import recipes

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "configs"
EMBEDDER = "configs/quickstart/embedder.yaml"


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    return tmp_path


PACKAGED = {
    "alone": (["fit", "--config", EMBEDDER], ["fit", "--config", str(ROOT / EMBEDDER)]),
    "behind a flag": ([f"--config={EMBEDDER}"], [f"--config={ROOT / EMBEDDER}"]),
    "a part": (
        ["--model.engine", "configs/parts/rollout/vllm.yaml"],
        ["--model.engine", f"{CONFIGS}/parts/rollout/vllm.yaml"],
    ),
}
LEFT_ALONE = {
    "no such recipe": "configs/quickstart/nope.yaml",
    "another folder": "my/configs/quickstart/embedder.yaml",
    "an absolute path": f"/{EMBEDDER}",
    "a folder": "configs/quickstart",
    "no path": "configs",
}


@pytest.mark.parametrize("name", PACKAGED)
def test_a_recipe_that_is_not_here_comes_from_the_package_and_that_is_told_once(name, elsewhere, capsys):
    words, found = PACKAGED[name]
    assert recipes.find_recipes(words) == found
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1
    assert "is not in this folder; taking" in told[0]


@pytest.mark.parametrize("name", LEFT_ALONE)
def test_other_words_are_left_alone(name, elsewhere, capsys):
    assert recipes.find_recipes(["--config", LEFT_ALONE[name]]) == ["--config", LEFT_ALONE[name]]
    assert capsys.readouterr().err == ""


def test_a_local_file_comes_first(elsewhere, capsys):
    Path(EMBEDDER).parent.mkdir(parents=True)
    Path(EMBEDDER).write_text("seed_everything: 1\n")
    assert recipes.find_recipes([EMBEDDER]) == [EMBEDDER]
    assert capsys.readouterr().err == ""


def test_of_several_processes_the_first_one_tells(elsewhere, capsys, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert recipes.find_recipes([EMBEDDER]) == [str(ROOT / EMBEDDER)]
    assert capsys.readouterr().err == ""


def test_the_package_has_them_in_itself_when_installed(tmp_path, monkeypatch):
    shutil.copytree(CONFIGS, tmp_path / "embedrl" / "configs")
    monkeypatch.setattr(recipes.embedrl, "__file__", str(tmp_path / "embedrl" / "__init__.py"))
    assert recipes.recipes_folder() == tmp_path / "embedrl" / "configs"
    shutil.rmtree(tmp_path / "embedrl" / "configs")
    with pytest.raises(recipes.ConfigError, match="no recipes come with this installation"):
        recipes.recipes_folder()


def test_recipes_are_listed_and_copied_as_they_are(elsewhere, capsys):
    assert main(["recipes"]) == 0
    names = sorted(f"configs/{path.relative_to(CONFIGS).as_posix()}" for path in CONFIGS.rglob("*.yaml"))
    assert sorted(capsys.readouterr().out.split()) == names
    assert EMBEDDER in names
    assert main(["recipes", "--out", "configs"]) == 0
    assert f"Wrote configs: {len(names)} files" in capsys.readouterr().out
    assert all((elsewhere / name).read_bytes() == (ROOT / name).read_bytes() for name in names)
    assert main(["recipes", "--out", "configs"]) == 2
    assert "--out configs: already there; give a new folder" in capsys.readouterr().err


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of this tree, built from its source distribution, as `pip install` of one would."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    junk = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "embedrl", source / "embedrl", ignore=junk)
    shutil.copytree(ROOT / "configs", source / "configs")
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy2(ROOT / name, source)
    build = "from setuptools import build_meta as b; import sys; print(b.build_sdist(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", build, folder], cwd=source, check=True, capture_output=True)
    with tarfile.open(next(folder.glob("*.tar.gz"))) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    pip = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "--quiet"]
    subprocess.run([*pip, "--wheel-dir", folder, next((folder / "unpacked").iterdir())], check=True)
    return next(folder.glob("*.whl"))


@pytest.mark.slow
def test_the_wheel_holds_all_that_is_not_python(wheel):
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
    package = {path.relative_to(ROOT).as_posix() for path in (ROOT / "embedrl").rglob("*") if path.is_file()}
    packaged = {f"embedrl/{path.relative_to(ROOT).as_posix()}" for path in CONFIGS.rglob("*.yaml")}
    wanted = {name for name in package | packaged if "__pycache__" not in name}
    assert {"embedrl/py.typed", f"embedrl/{EMBEDDER}", "embedrl/assets/world_base/model.safetensors"} <= wanted
    assert not wanted - held
    assert not [name for name in held if not name.startswith(("embedrl/", "embedrl-"))]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_quickstart_runs_from_the_unpacked_wheel(wheel, tmp_path):
    site, here = tmp_path / "site", tmp_path / "here"
    here.mkdir()
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    environment = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}

    def run(*words):
        done = subprocess.run([sys.executable, "-P", *words], cwd=here, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done

    run("-c", f"import embedrl; assert embedrl.__file__.startswith({str(site)!r}), embedrl.__file__")
    short = ["--trainer.max_steps", "2", "--trainer.val_check_interval", "2"]
    small = ["--data.batch_size", "4", "--data.sub_batch_size", "2", "--data.micro_batch_size", "2"]
    validation = "[{class_path: embedrl.data.world.WorldTasks, init_args: {split: val, size: 8, families: [t2i]}}]"
    done = run("-m", "embedrl", "fit", "--config", EMBEDDER, *short, *small, "--data.val", validation)
    assert f"taking {site}/embedrl/{EMBEDDER}" in done.stderr
    assert (here / "runs/quickstart_embedder/model/model.safetensors").is_file()
