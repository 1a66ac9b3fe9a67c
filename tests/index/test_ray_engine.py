"""Adding over many machines: options, what goes between workers, and a local Ray that loses a worker on the way."""

import os
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from embedrl import Index, QwenVLBackbone, cli
from embedrl.errors import ConfigError
from embedrl.index import ray_engine
from embedrl.index.make import write_rows
from embedrl.index.models import load_models
from embedrl.index.ray_engine import RayOptions
from embedrl.index.ray_stages import COLUMN, Embeds, RayJob, Reasons, read_parcels, unpacked

pytest.importorskip("lancedb")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"actors": 0}, "--ray.actors is 0: give 1 or more"),
        ({"reasoner_actors": 0}, "--ray.reasoner_actors is 0"),
        ({"commit": 0}, "--ray.commit is 0"),
        ({"retries": -1}, "--ray.retries is -1: give 0 or more"),
        ({"cpus_per_actor": -1.0}, "--ray.cpus_per_actor"),
        ({"gpus_per_actor": float("nan")}, "--ray.gpus_per_actor"),
        ({"gpus_per_actor": 1.5}, "a whole number, or one below 1"),
        ({"actors": 4, "max_actors": 3}, "--ray.max_actors is 3"),
    ],
)
def test_wrong_options(options, said):
    with pytest.raises(ConfigError, match=said) as raised:
        RayOptions(**options)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("there", "reasoned", "said"),
    [
        ({"CPU": 8}, False, "4 actors need 2 GPUs, and this machine has 0"),
        ({"CPU": 3, "GPU": 8}, False, "4 actors need 4 CPUs"),
        ({"CPU": 4, "GPU": 2}, True, "5 actors need 5 CPUs"),
    ],
)
def test_actors_need_room(there, reasoned, said):
    options = RayOptions(actors=4, gpus_per_actor=0.5)
    ray_engine._check_room({"CPU": 4, "GPU": 2}, options, False)
    with pytest.raises(ConfigError, match=said):
        ray_engine._check_room(there, options, reasoned)


def test_the_command_names_what_is_wrong(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    build, add = ["index", "build", "photos", "--embedder", "none"], ["index", "add", "none.lance", "photos"]
    monkeypatch.setitem(sys.modules, "ray", None)
    for words, message in {
        ("--ray.actors", "2"): "--engine ray: give it, too",
        ("--engine", "ray", "--ray.actors", "0"): "--ray.actors is 0",
        ("--engine", "ray"): "pip install embedrl[ray]",
    }.items():
        for command in (build, add):
            assert cli.main([*command, *words]) == 2
            error = capsys.readouterr().err
            assert message in error
            assert error.count("\n") == 1, error


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_reasoners_and_embedders_as_the_local_engine(tmp_path):
    for name, color in (("red", "red"), ("blue", "blue")):
        Image.new("RGB", (64, 48), color).save(tmp_path / f"{name}.png")
    (tmp_path / "torn.png").write_bytes(b"x")
    names = {"reasoner": "embedrl:tiny", "style": "brief"}
    backbone = QwenVLBackbone("embedrl:tiny")
    backbone.build()
    backbone.export(tmp_path / "model")
    names["embedder"] = str(tmp_path / "model")
    embedder, reasoner = load_models(names, "cpu")
    local, other = (Index.create(tmp_path / f"{name}.lance", embedder, reasoner, names) for name in "ab")
    done = local.add(tmp_path)
    job = RayJob(other.store.uri, str(tmp_path), "items", names, None, None, 3, "cpu")
    (block,) = read_parcels(None, job)
    reasons = Reasons(job)
    parcel = unpacked(Embeds(job)(reasons(block))[COLUMN][0])
    assert parcel.error is None
    assert [bad.cause for bad in parcel.bad] == [*done.skipped] == ["broken_picture"]
    assert write_rows(other.store, parcel.made) == 2
    for one, two in zip(rows(local.store.uri), rows(other.store.uri), strict=True):
        np.testing.assert_allclose(one.pop("vector"), two.pop("vector"), atol=1e-5)
        assert one == two
        assert one["tcot"]


def actors():
    """The processes of actors that embed, below this one."""
    parents, names = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            names[int(folder.name)] = (folder / "cmdline").read_text().replace("\0", " ")
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue

    def is_ours(pid):
        while pid in parents and pid != os.getpid():
            pid = parents[pid]
        return pid == os.getpid()

    return {pid for pid, name in names.items() if name.startswith("ray::") and "Embeds" in name and is_ours(pid)}


class Killer(threading.Thread):
    """Kills the actor once there are rows, and waits for the one that comes in its place."""

    def __init__(self, uri):
        super().__init__(daemon=True)
        self.uri, self.rows, self.killed, self.next = uri, None, set(), set()

    def run(self):
        while not any(Path(self.uri, "items.lance/data").glob("*.lance")):
            time.sleep(0.01)
        self.rows = len(Index.open(self.uri))
        self.killed = actors()
        for pid in self.killed:
            os.kill(pid, signal.SIGKILL)
        while not self.next:
            self.next = actors() - self.killed
            time.sleep(0.01)


def rows(uri):
    store = Index.open(uri).store
    names = [name for name in store.schema.names if name not in ("added_at", "relative_files")]
    return sorted((row for batch in store.read(names) for row in batch.to_pylist()), key=lambda row: row["key"])


@pytest.mark.slow
@pytest.mark.dist
@pytest.mark.filterwarnings("ignore")
def test_a_lost_worker_changes_nothing(tmp_path, monkeypatch, capsys):
    ray = pytest.importorskip("ray")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))  # for the workers
    backbone = QwenVLBackbone("embedrl:tiny")
    backbone.build()
    backbone.export(tmp_path / "model")
    rng = np.random.default_rng(0)
    lines = ["image,text,year"]
    for i in range(40):
        Image.fromarray(rng.integers(0, 256, (48, 64, 3), np.uint8)).save(f"{i}.png")
        lines.append(f"{i}.png,number {i},{2000 + i}")
    Path("2.png").write_bytes(b"x")
    lines += [lines[1], "none.png,nothing,1"]  # one twice, one that is not there
    Path("items.csv").write_text("\n".join(lines))

    def run(out, *words, build=True):
        table = str(tmp_path / "items.csv")
        command = ["build", table, "--out", out, "--embedder", "model"] if build else ["add", out, table]
        code = cli.main(["index", *command, "--device", "cpu", "--batch", "2", *words])
        error = capsys.readouterr().err
        assert code == 0, error
        return error

    assert "39 added, 39 embedded, 1 known already, 2 skipped" in run("local.lance")
    killer = Killer(str(tmp_path / "ray.lance"))
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        killer.start()
        said = run("ray.lance", "--engine", "ray", "--ray.commit", "4")  # two batches
        killer.join(1)
        assert len(killer.killed) == 1
        assert killer.next, "nothing was left to do when the worker was killed"
        assert 0 < killer.rows < 39
        assert "39 added" in said
        with Path("items.csv").open("a") as file:
            file.write("\n5.png,another text,2040")
        for out, *engine in (("local.lance",), ("ray.lance", "--engine", "ray")):
            assert "1 added, 1 embedded, 40 known already" in run(out, *engine, build=False)
    finally:
        ray.shutdown()
    here, there = rows("local.lance"), rows("ray.lance")
    assert len(there) == len({row["key"] for row in there}) == 40
    for row, other in zip(here, there, strict=True):
        np.testing.assert_allclose(row.pop("vector"), other.pop("vector"), atol=1e-5)
        assert row == other
    skipped = [sorted(Path(name, "skipped.jsonl").read_text().splitlines()) for name in ("local.lance", "ray.lance")]
    assert skipped[0] == skipped[1]
    assert len(set(skipped[0])) == 2
