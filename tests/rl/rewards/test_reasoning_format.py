import pytest

from embedrl.errors import ConfigError
from embedrl.rl.rewards.reasoning_format import ReasoningFormat
from embedrl.rl.types import Rollout, RolloutStep
from embedrl.tcot.parser import build
from embedrl.types import Modality, Pair, Role, Side

TCOT = build(Modality.TEXT, "Look.", "Only the cat.", "A cat.", keywords=["cat"]).render()
THINK = "<think>\nA cat.\n</think>\n<answer>cat</answer>"


@pytest.mark.parametrize(
    ("template", "needs_token", "text", "expected"),
    [
        ("tcot", True, f"{TCOT}<gen_emb>", 1),
        ("tcot", True, TCOT, 0),
        ("tcot", False, TCOT, 1),
        ("tcot", True, f"{THINK}<gen_emb>", 0),
        ("tcot", False, "", 0),
        ("think_answer", True, f"{THINK}<gen_emb>", 1),
        ("think_answer", True, f"{THINK}\n<gen_emb>", 1),
        ("think_answer", False, THINK, 1),
        ("think_answer", True, THINK, 0),
        ("think_answer", True, f"{THINK}{THINK}<gen_emb>", 0),
        ("think_answer", True, f"x{THINK}<gen_emb>", 0),
        ("think_answer", True, "<think> </think><answer>cat</answer><gen_emb>", 0),
        ("think_answer", True, "<think>cat</think><gen_emb>", 0),
    ],
)
def test_which_rollouts_follow_the_template(template, needs_token, text, expected):
    for truncated in (False, True):
        rollout = Rollout(0, Role.QUERY, 0, (), (), text, truncated)
        step = RolloutStep([Pair(Side("a"), Side("b"), "d", "0")], [rollout], {}, {}, frozenset([rollout.id]))
        values = ReasoningFormat(template, needs_token)(step).values
        assert values == {rollout.id: 0.0 if truncated else expected}


def test_an_unknown_template_is_refused():
    with pytest.raises(ConfigError, match=r"format.template is 'free': give tcot or think_answer"):
        ReasoningFormat("free")
