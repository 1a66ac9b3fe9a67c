"""EG-RL's quickstart with its rollouts on a server, through the command line."""

from pathlib import Path

import pytest
import yaml
from cli_process import logged
from egrl_small import CONFIGS, overlay
from rollout_server import RolloutServer

from embedrl.cli import main
from embedrl.models.qwen_vl.loading import SHIPPED

BASE = SHIPPED["embedrl:world_base"]


@pytest.fixture
def server():
    server = RolloutServer(BASE)
    yield server
    server.close()


def flags(folder: Path, url: str) -> list[str]:
    (folder / "small.yaml").write_text(yaml.safe_dump(overlay({"max_steps": 4, "limit_val_batches": 0})))
    engine = "--model.engine"
    given = {
        "--config": str(folder / "small.yaml"),
        engine: str(CONFIGS / "parts/rollout/vllm.yaml"),
        f"{engine}.init_args.base_url": url,
        f"{engine}.init_args.retries": "0",
        f"{engine}.init_args.max_mismatch": "0.001",
        "--model.loss.init_args.importance_cap": "2",
        "--model.rollout.top_p": "1",
        "--model.generator.init_args.path": "embedrl:world_base",
        "--model.rewards": str(CONFIGS / "parts/reward/outcome_only.yaml"),
    }
    first = ["fit", "--config", str(CONFIGS / "quickstart/egrl.yaml")]
    return [*first, *(word for flag in given.items() for word in flag)]


@pytest.mark.slow
def test_the_quickstart_with_a_server(server, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(flags(tmp_path, server.url)) == 0, capsys.readouterr().err
    (run,) = tmp_path.rglob("version_0")
    for name in ("policy/mismatch", "policy/mismatch_ratio_max", "policy/importance", "policy/importance_capped"):
        assert len(logged(run, name)) == 2  # two batches, two inner epochs each
    assert all(0 < value < 1e-4 for (value,) in logged(run, "policy/mismatch").values())
    assert server.log.count("load_lora_adapter") == 2
    assert [path.name for path in (tmp_path / "runs/adapters").iterdir()] == list(server.loaded)
    written = yaml.safe_load((run / "config.yaml").read_text())["model"]["init_args"]["engine"]
    assert written["init_args"]["base_url"] == server.url


@pytest.mark.slow
def test_no_server_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(flags(tmp_path, "http://127.0.0.1:9/v1")) != 0
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "http://127.0.0.1:9/v1" in error
    assert "unreachable" in error
