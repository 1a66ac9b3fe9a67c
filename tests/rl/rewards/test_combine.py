"""The total of several rewards, and the presets."""

import math
from dataclasses import replace
from pathlib import Path
from statistics import fmean, pstdev

import pytest
from jsonargparse import ArgumentParser
from reward_helpers import FakeJudge, step_of

from embedrl.errors import ConfigError, NonFiniteError, RewardError
from embedrl.rl.rewards.combine import RewardRow, bind_scorer, check_rewards, needed_variants, total_rewards
from embedrl.rl.rewards.format import FormatReward
from embedrl.rl.rewards.judge import ReferenceJudge
from embedrl.rl.rewards.outcome import OutcomeReward
from embedrl.rl.rewards.process import ProcessReward
from embedrl.rl.types import RewardResult

PRESETS = Path(__file__).parents[3] / "configs" / "parts" / "reward"


class Told:
    """A reward that says what it was told."""

    def __init__(self, name, values, **metrics):
        self.name = name
        self.values = values
        self.metrics = metrics

    def __call__(self, step):
        return RewardResult(self.values, self.metrics)


def step():
    return step_of("a", "x", 2)


IDS = [r.id for r in step().rollouts]


def told(name, *values, **metrics):
    return Told(name, dict(zip(IDS, values, strict=True)), **metrics)


def test_the_weighted_sum_by_hand():
    rows = [RewardRow(told("a", 1, 0, 1, 0), 0.05), RewardRow(told("b", 0.5, -1, 0.0, 2, depth=7.0), 0.2)]
    result = total_rewards(rows, step())
    assert list(result.totals) == IDS
    assert list(result.totals.values()) == pytest.approx([0.15, -0.2, 0.05, 0.4])
    assert result.parts == {"a": rows[0].reward.values, "b": rows[1].reward.values}
    assert result.metrics["reward/b/depth"] == 7
    for name, values in {**result.parts, "total": result.totals}.items():
        assert result.metrics[f"reward/{name}/mean"] == pytest.approx(fmean(values.values()))
        assert result.metrics[f"reward/{name}/std"] == pytest.approx(pstdev(values.values()))
        assert result.metrics[f"reward/{name}/invalid"] == 0


def test_one_part_without_verdict_takes_the_rollout_out():
    rows = [RewardRow(told("a", 1, None, 1, None), 0.5), RewardRow(told("b", None, 1, 1, 3))]
    result = total_rewards(rows, step())
    assert list(result.totals.values()) == [None, None, 1.5, None]
    shares = {name: result.metrics[f"reward/{name}/invalid"] for name in ("a", "b", "total")}
    assert shares == {"a": 0.5, "b": 0.25, "total": 0.75}
    assert result.metrics["reward/b/mean"] == pytest.approx(5 / 3)


def test_no_verdict_at_all_has_no_mean():
    result = total_rewards([RewardRow(told("a", *[None] * 4))], step())
    assert result.metrics == {"reward/a/invalid": 1, "reward/total/invalid": 1}


def test_a_process_without_rollouts_measures_nothing():
    result = total_rewards([RewardRow(told("a", 1, 1, 1, 1))], replace(step(), mine=frozenset()))
    assert result.totals == result.metrics == {}


def test_only_rollouts_of_this_process_count():
    result = total_rewards([RewardRow(told("a", 1, 2, 3, 4))], replace(step(), mine=frozenset(IDS[1:3])))
    assert result.totals == {IDS[1]: 2, IDS[2]: 3}
    assert result.metrics["reward/a/mean"] == 2.5


def test_refuses_a_reward_that_skips_a_rollout():
    reward = Told("patchy", dict.fromkeys(IDS[:-1], 1.0))
    with pytest.raises(RewardError, match=f"patchy says nothing on 1 rollouts .*{IDS[-1]}"):
        total_rewards([RewardRow(reward)], step())


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_refuses_what_is_not_finite(value):
    with pytest.raises(NonFiniteError, match=f"reward b .*{IDS[2]}"):
        total_rewards([RewardRow(told("a", 1, 1, 1, 1)), RewardRow(told("b", 1, 1, value, 1))], step())


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "empty"),
        ([RewardRow(FormatReward()), RewardRow(FormatReward())], "'format' is taken"),
        ([RewardRow(Told("total", {}))], "'total' is taken"),
        ([RewardRow(FormatReward(), 0.0)], "weight 0.0 of format"),
        ([RewardRow(FormatReward(), -1.0)], "weight -1.0"),
        ([RewardRow(FormatReward(), math.nan)], "weight nan"),
        ([RewardRow(FormatReward(), math.inf)], "weight inf"),
    ],
)
def test_refuses_lists_that_make_no_sense(rows, message):
    with pytest.raises(ConfigError, match=message):
        check_rewards(rows)


def load(path):
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--rewards", type=list[RewardRow], sub_configs=True)
    return parser.instantiate(parser.parse_args(["--rewards", str(path)])).rewards


EXPECTED = {
    "paper": {"format": 0.05, "process": 0.8, "outcome": 0.2},
    "released_code": {"format": 0.05, "process": 0.2, "outcome": 0.8 * 0.5},
    "outcome_only": {"format": 0.2, "outcome": 0.8},
}


@pytest.mark.parametrize("preset", EXPECTED)
def test_presets_load_and_score_a_step(preset):
    rows = load(PRESETS / f"{preset}.yaml")
    assert dict(zip(check_rewards(rows), [row.weight for row in rows], strict=True)) == pytest.approx(EXPECTED[preset])
    rewards = {row.reward.name: row.reward for row in rows}
    assert rewards["outcome"].temperature == 0.5
    assert rewards["outcome"].mask_duplicates == (preset != "released_code")
    if "process" in rewards:
        assert rewards["process"].form == ("margin" if preset == "released_code" else "hit")
        assert isinstance(rewards["process"].judge, ReferenceJudge)
        rewards["process"].judge = FakeJudge()
    result = total_rewards(rows, step_of(range(4), range(4), 3))
    assert len(result.totals) == 2 * 4 * 3
    assert all(value is not None for value in result.totals.values())
    for name in result.totals:
        parts = [EXPECTED[preset][part] * values[name] for part, values in result.parts.items()]
        assert result.totals[name] == pytest.approx(sum(parts))


def test_the_endpoint_fits_into_a_recipe(tmp_path):
    text = (PRESETS / "paper.yaml").read_text()
    judge = "embedrl.rl.EndpointJudge\n        init_args: {base_url: http://127.0.0.1:1/v1, model: m}"
    path = tmp_path / "rewards.yaml"
    path.write_text(text.replace("embedrl.rl.ReferenceJudge", judge))
    assert load(path)[1].reward.judge.name == "http://127.0.0.1:1/v1 (m)"


def test_the_reference_model_reaches_whoever_asks_for_it():
    class Scorer:
        def score_choices(self, prompts, choices):
            return []

    named, unnamed, given = ReferenceJudge(Scorer()), ReferenceJudge(), Scorer()
    rows = [RewardRow(OutcomeReward()), *(RewardRow(ProcessReward(judge)) for judge in (named, unnamed, FakeJudge()))]
    bind_scorer(rows, given)
    assert unnamed.scorer is given
    assert named.scorer is not given


@pytest.mark.parametrize(
    ("preset", "weights", "variants"),
    [
        ("evidence", {"format": 0.2, "outcome": 0.8, "evidence": 0.5}, ()),
        ("step_credit", {"format": 0.2, "outcome": 0.8, "step_credit": 0.5}, ("none", "thinking", "rethink")),
        ("counterfactual", {"format": 0.2, "outcome": 0.8, "counterfactual": 0.8}, ("no_evidence",)),
    ],
)
def test_presets_of_further_rewards_load(preset, weights, variants):
    rows = load(PRESETS / f"{preset}.yaml")
    assert dict(zip(check_rewards(rows), [row.weight for row in rows], strict=True)) == weights
    assert needed_variants(rows) == variants


def test_a_reward_of_sections_is_no_part_of_the_total():
    class OfSections(Told):
        def __call__(self, step):
            gains = {name: (value, 0.0, 2.0) for name, value in self.values.items()}
            return RewardResult(self.values, self.metrics, gains | {"another process": (9.0, 9.0, 9.0)})

    given = {name: float(i) for i, name in enumerate(IDS)}
    rows = [RewardRow(Told("plain", given), 2.0), RewardRow(OfSections("of_sections", given, gain=1.0), 0.3)]
    result = total_rewards(rows, step())
    assert result.totals == {name: 2.0 * value for name, value in given.items()}
    assert result.parts["of_sections"] == given
    assert result.metrics["reward/of_sections/gain"] == 1.0
    assert result.sections == [(0.3, {name: (value, 0.0, 2.0) for name, value in given.items()})]
    alone = total_rewards(rows[1:], step())
    assert set(alone.totals.values()) == {0.0}
