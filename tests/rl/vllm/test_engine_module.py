"""EG-RL with a rollout server: what is logged, resumed, corrected, and when it stops."""

import functools

import pytest
import torch
from egrl_module import SMALL, adapters, fit
from rollout_server import RolloutServer

from embedrl.errors import EndpointError
from embedrl.inference.frozen_embedder import FrozenEmbedder
from embedrl.models.lora import LoRAOptions
from embedrl.models.qwen_vl.backbone import QwenVLBackbone
from embedrl.models.qwen_vl.reasoner import QwenVLReasoner
from embedrl.rl.grpo_loss import GRPOLoss
from embedrl.rl.mismatch import Mismatch
from embedrl.rl.module import EGRLModule
from embedrl.rl.policy import PolicyOptions
from embedrl.rl.rewards.combine import RewardRow
from embedrl.rl.rewards.outcome import OutcomeReward
from embedrl.rl.rollout import RolloutOptions
from embedrl.rl.vllm.engine import ServerRollout

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("served")
    model = QwenVLReasoner("embedrl:tiny")
    model.build()
    model.export(out)
    return out


@pytest.fixture
def server(folder):
    server = RolloutServer(folder)
    yield server
    server.close()


@pytest.fixture
def build(folder, server, tmp_path):
    def make(max_mismatch=1e-3, lr=1e-2, top_p=1.0):
        return EGRLModule(
            generator=QwenVLReasoner(str(folder), lora=LoRAOptions(r=4, alpha=8, dropout=0.0, scope="all-linear")),
            embedder=FrozenEmbedder(QwenVLBackbone("embedrl:tiny", image_pixels=SMALL)),
            rewards=[RewardRow(OutcomeReward(), 1.0)],
            optimizer=functools.partial(torch.optim.AdamW, lr=lr),
            loss=GRPOLoss(importance_cap=2.0),
            group_size=3,
            rollout=RolloutOptions(max_new_tokens=4, top_p=top_p),
            policy=PolicyOptions(max_tokens=200),
            style="brief",
            inner_epochs=2,
            engine=ServerRollout(server.url, str(tmp_path / "adapters"), retries=0, max_mismatch=max_mismatch),
        )

    return make


def test_the_server_follows_the_policy_and_a_resumed_run_repeats_it(build, server, tmp_path):
    whole = build()
    trainer = fit(whole, tmp_path, 6)
    assert server.log.count("load_lora_adapter") == 3
    logged = {name: float(value) for name, value in trainer.logged_metrics.items()}
    assert 0 < logged["policy/mismatch"] < 1e-4
    assert 1 <= logged["policy/mismatch_ratio_max"] < 1.001
    assert logged["policy/importance"] == pytest.approx(1, abs=1e-4)
    assert logged["policy/importance_capped"] == 0
    first = build()
    fit(first, tmp_path, 2).save_checkpoint(tmp_path / "one.ckpt")
    resumed = build()
    fit(resumed, tmp_path, 6, ckpt_path=tmp_path / "one.ckpt")
    assert [r.tokens for r, _ in resumed.rollouts] == [r.tokens for r, _ in whole.rollouts]
    for name, value in adapters(whole).items():
        torch.testing.assert_close(adapters(resumed)[name], value)
    again = EGRLModule.load_from_checkpoint(tmp_path / "one.ckpt", weights_only=True)
    assert isinstance(again.engine, ServerRollout)
    assert (again.engine.base_url, again.engine.max_mismatch) == (server.url, 1e-3)
    assert again.engine.endpoint == whole.engine.endpoint
    assert again.engine.endpoint.retries == 0


def test_top_p_is_no_mismatch_and_is_weighted(build, tmp_path):
    """The server's log-probabilities are those of what it drew from, the policy's those of all tokens."""
    logged = fit(build(top_p=0.5), tmp_path, 2).logged_metrics
    assert 0 <= logged["policy/mismatch"] < 1e-4
    assert logged["policy/engine_gap"] < 1e-3
    assert 0.5 < logged["policy/importance"] < 0.95
    local = build(top_p=0.5)
    local.engine = None
    other = fit(local, tmp_path, 2).logged_metrics
    assert 0.5 < other["policy/importance"] < 0.95
    assert other["policy/engine_gap"] < 1e-4


def test_a_server_that_ignores_the_adapter_is_found_out(build, server, tmp_path):
    server.stale = True
    trainer = fit(build(max_mismatch=None), tmp_path, 4)
    assert trainer.logged_metrics["policy/mismatch"] > 5e-3
    assert trainer.logged_metrics["policy/importance"] != pytest.approx(1, abs=1e-4)
    module = build(max_mismatch=5e-3)
    module.configure_model()
    with pytest.raises(
        EndpointError, match=rf"step 2: the server at {server.url} does not draw by the policy.*adapter"
    ):
        fit(module, tmp_path, 4)
    assert module.global_step == 2  # the update by wrong figures was not made


class Engine:
    base_url = "http://host/v1"
    max_mismatch = 0.5


def test_the_figures_of_a_mismatch():
    mismatch = Mismatch()
    ones = torch.ones(1, 2)
    mismatch.add(torch.tensor([[-1.0, -2.0]]), torch.tensor([[-1.5, -1.9]]), ones)
    mismatch.add(torch.tensor([[-1.0, torch.nan]]), torch.tensor([[-1.0, 0.0]]), torch.tensor([[1, 0]]))
    figures = mismatch.check(Engine(), 3)
    assert figures["policy/mismatch"] == pytest.approx(0.2)
    assert figures["policy/mismatch_ratio_max"] == pytest.approx(1.6487, abs=1e-4)
    assert Mismatch().check(Engine(), 3)["policy/mismatch"] == 0
    for gap in (1.0, torch.nan):
        mismatch = Mismatch()
        mismatch.add(ones, ones + gap, ones)
        with pytest.raises(EndpointError, match=r"step 3: .*http://host/v1.*max_mismatch 0.5"):
            mismatch.check(Engine(), 3)
