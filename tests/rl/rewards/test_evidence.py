"""The verifiable evidence reward against a second computation, part by part."""

from __future__ import annotations

from itertools import permutations

import pytest
from PIL import Image

from embedrl.data.opened import OpenedImage
from embedrl.data.world import WorldSource
from embedrl.errors import ConfigError
from embedrl.rl.rewards.evidence import EvidenceReward, EvidenceWeights
from embedrl.rl.types import Rollout, RolloutStep
from embedrl.tcot.parser import build, parse
from embedrl.types import GoldEvidence, Modality, Pair, Role, Side

TARGET = Side("a target")
PICTURE = OpenedImage("grey", Image.new("RGB", (20, 20)))


def _step(side: Side, texts: list[str]) -> RolloutStep:
    pair = Pair(side, TARGET, "demo", "0")
    rollouts = [Rollout(0, Role.QUERY, i, (), (), text) for i, text in enumerate(texts)]
    parsed = {r.id: parse(r.text, side.modality, len(side.frames) or None) for r in rollouts}
    return RolloutStep([pair], rollouts, {}, parsed, frozenset(parsed))


def _only(part: str) -> EvidenceWeights:
    return EvidenceWeights(**{name: float(name == part) for name in ("count", "span", "type", "box", "visible")})


def _picture(gold: GoldEvidence) -> Side:
    return Side("find it", images=(PICTURE,), gold=gold)


def _boxes(*boxes: tuple[float, ...], answer: str = "it") -> str:
    return build(Modality.IMAGE, "look .", "it matters .", answer, boxes=boxes).render()


def _iou(one: tuple[float, ...], two: tuple[float, ...]) -> float:
    """By counting cells of the grid 0..1000 in steps of 10."""
    cells = [
        {(x, y) for x in range(int(b[0]), int(b[2]), 10) for y in range(int(b[1]), int(b[3]), 10)} for b in (one, two)
    ]
    return len(cells[0] & cells[1]) / len(cells[0] | cells[1])


@pytest.mark.parametrize("threshold", [0.0, 0.5])
def test_boxes_by_counting_cells(threshold: float) -> None:
    gold = ((0, 0, 200, 200), (500, 500, 900, 900))
    named = [
        [(0, 0, 200, 100)],
        [(500, 500, 900, 800), (0, 0, 200, 190)],
        [(0, 0, 1000, 1000), (500, 500, 900, 900), (0, 0, 100, 100)],
    ]
    values = EvidenceReward(_only("box"), threshold)(
        _step(_picture(GoldEvidence(boxes=gold)), [_boxes(*b) for b in named])
    )
    for boxes, value in zip(named, values.values.values(), strict=True):
        pairings = []
        for chosen in permutations(range(max(len(boxes), 2)), 2):
            ious = [_iou(boxes[i], right) for i, right in zip(chosen, gold, strict=True) if i < len(boxes)]
            pairings.append(sum(iou for iou in ious if iou >= threshold))
        assert value == pytest.approx(max(pairings) / max(len(boxes), 2), abs=1e-9)


@pytest.mark.parametrize(
    ("part", "gold", "text", "value"),
    [
        ("count", GoldEvidence(boxes=((0, 0, 9, 9),)), _boxes((500, 500, 600, 600)), 1.0),
        ("count", GoldEvidence(boxes=((0, 0, 9, 9),)), _boxes((0, 0, 9, 9), (5, 5, 9, 9)), 0.0),
        ("visible", GoldEvidence(boxes=()), _boxes((0, 0, 9, 9)), 0.0),
        ("visible", GoldEvidence(boxes=()), "<thinking>nothing .</thinking>", 1.0),
        ("visible", GoldEvidence(boxes=((0, 0, 9, 9),)), "<thinking>nothing .</thinking>", 0.0),
        ("box", GoldEvidence(boxes=((0, 0, 9, 9),)), "<thinking>nothing .</thinking>", 0.0),
        ("type", GoldEvidence(names=("red star", "cat")), _boxes((0, 0, 9, 9), answer="a Red  star"), 0.5),
        ("type", GoldEvidence(names=("red star",)), _boxes((0, 0, 9, 9), answer="a red starfish"), 0.0),
        ("span", GoldEvidence(names=("it",)), _boxes((0, 0, 9, 9)), 0.0),  # nothing known of it: no part
    ],
)
def test_a_part_by_hand(part: str, gold: GoldEvidence, text: str, value: float) -> None:
    assert list(EvidenceReward(_only(part))(_step(_picture(gold), [text])).values.values()) == [value]


def test_spans_of_texts_and_frames_are_an_f1() -> None:
    text = build(Modality.TEXT, "a .", "b .", "c", keywords=["x", "y", "z"]).render()
    side = Side("x y z", gold=GoldEvidence(spans=("x", "w")))
    assert list(EvidenceReward(_only("span"))(_step(side, [text])).values.values()) == [pytest.approx(2 / 5)]
    video = Side("find it", frames=(PICTURE,) * 8, gold=GoldEvidence(frames=(3, 4)))
    frames = build(Modality.VIDEO, "a .", "b .", "c", frames=[4]).render()
    assert list(EvidenceReward(_only("span"))(_step(video, [frames])).values.values()) == [pytest.approx(2 / 3)]


def test_what_is_not_known_takes_no_part() -> None:
    side = _picture(GoldEvidence(boxes=((0, 0, 200, 200),), names=("it",)))
    result = EvidenceReward(EvidenceWeights(count=2, type=1, box=3, visible=0))(_step(side, [_boxes((0, 0, 200, 160))]))
    assert list(result.values.values()) == [pytest.approx((2 * 1 + 1 * 1 + 3 * 0.8) / 6)]
    assert "span" not in result.metrics
    assert result.metrics["known"] == 1.0
    pair = Pair(side, TARGET, "demo", "0")
    rollouts = [Rollout(0, role, 0, (), (), "") for role in Role]
    parsed = {r.id: parse("", Modality.TEXT) for r in rollouts}
    values = EvidenceReward()(RolloutStep([pair], rollouts, {}, parsed, frozenset(parsed)))
    assert values.values["0/target/0"] == 0.0
    assert values.metrics["known"] == 0.5


@pytest.mark.parametrize("family", ["vqa", "t2i", "composed", "grounding", "video_qa"])
def test_the_worlds_perfect_teacher_gets_nearly_all(family: str) -> None:
    source = WorldSource(family, gold=True, size=8)
    plain = WorldSource(family, size=8)
    for row in range(8):
        pair = source[row]
        assert [pair.query.key, pair.query.tcot] == [plain[row].query.key, plain[row].query.tcot]
        assert plain[row].query.gold is None
        assert pair.query.gold is not None
        for role in Role:
            side = pair.query if role is Role.QUERY else pair.target
            rollout = Rollout(0, role, 0, (), (), side.tcot)
            read = parse(side.tcot, side.modality, len(side.frames) or None)
            step = RolloutStep([pair], [rollout], {}, {rollout.id: read}, frozenset([rollout.id]))
            result = EvidenceReward(EvidenceWeights(type=0))(step)  # a composed query's answer names what it becomes
            assert result.values[rollout.id] > 0.9
            assert result.metrics["count"] == 1.0


def test_a_data_set_without_gold_evidence_takes_no_part_and_is_named_once(caplog: pytest.LogCaptureFixture) -> None:
    reward = EvidenceReward()
    for _ in range(2):
        result = reward(_step(Side("a text"), ["x", "y"]))
    assert set(result.values.values()) == {0.0}
    assert result.metrics == {"known": 0.0}
    assert [record.message for record in caplog.records] == [
        "the reward evidence takes no part in demo: no side of a step carries gold evidence (`gold: true` of the "
        "built-in world, the key `gold` of a side in JSON lines)"
    ]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: EvidenceReward(iou_threshold=1.5), r"evidence\.iou_threshold is 1\.5"),
        (lambda: EvidenceWeights(box=-1), r"evidence\.weights\.box is -1"),
        (lambda: EvidenceWeights(0, 0, 0, 0, 0), "all 0"),
    ],
)
def test_bad_options(make: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()  # type: ignore[operator]
