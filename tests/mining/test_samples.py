from embedrl.mining.neighbours import Neighbours
from embedrl.mining.samples import Sample, draw_samples
from embedrl.types import Pair, Side
from embedrl.visualization.drawing import GREEN, ORANGE


def test_a_page_shows_target_negatives_and_what_was_left_out():
    sides = [Side(f"note {i}") for i in range(4)]
    pair = Pair(Side("a query"), sides[0], "set", "1")
    full = Neighbours(0.9, [(1, 0.5), (2, 0.4)], [(3, 0.95)], doubtful=False, rank=1)
    none = Neighbours(0.9, [], [], doubtful=True, rank=0)
    sample = Sample.of(pair, full, sides, 0.855)
    assert [side.text for side, _ in (*sample.negatives, *sample.above)] == ["note 1", "note 2", "note 3"]
    assert sample.note == "ceiling 0.855, 1 left out"
    assert Sample.of(pair, none, sides, 0.855).note == "doubtful, ceiling 0.855, 0 left out"
    page = draw_samples("set", [sample, Sample.of(pair, none, sides, 0.855)])
    colours = {colour for _, colour in page.getcolors(1 << 24)}
    assert {GREEN, ORANGE} <= colours
    alone = draw_samples("set", [Sample.of(pair, none, sides, 0.855)])
    assert ORANGE not in {colour for _, colour in alone.getcolors(1 << 24)}
    assert page.width > alone.width
    assert page.height > alone.height
