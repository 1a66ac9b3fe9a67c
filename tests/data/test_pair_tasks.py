"""Pairs as retrieval tasks: which targets are right for which queries."""

from captioned import png

from embedrl.data import ImageFile, PairTasks
from embedrl.types import Modality, Pair, Side


class Cards:
    """Captions and pictures; `again.png` has the bytes of `red.png`."""

    name = "cards"
    modality = Modality.IMAGE

    def __init__(self, folder):
        for name, colour in (("red", "red"), ("again", "red"), ("blue", "blue")):
            (folder / f"{name}.png").write_bytes(png(colour))
        rows = [("A red card", "red"), ("scarlet", "red"), ("a  RED card", "again"), ("blue", "blue"), ("blue", "red")]
        self.pairs = [
            Pair(Side(text), Side(images=(ImageFile(f"{folder}/{name}.png"),)), "cards", f"p{i}")
            for i, (text, name) in enumerate(rows)
        ]

    def __len__(self):
        return len(self.pairs)

    def __getitem__(self, index):
        return self.pairs[index]


def test_all_targets_of_equal_queries_are_right(tmp_path):
    forward, back = PairTasks(Cards(tmp_path)).tasks()
    assert (forward.name, back.name, forward.main_metric) == ("cards_t2i", "cards_i2t", "hit@10")
    assert [side.text for side in forward.queries] == ["A red card", "scarlet", "blue"]
    assert forward.candidate_ids == ["p0", "p3"]
    assert forward.qrels == [{0: 1.0}, {0: 1.0}, {1: 1.0, 0: 1.0}]
    assert back.qrels == [{0: 1.0, 1: 1.0, 2: 1.0}, {2: 1.0}]
    assert back.queries == forward.candidates
    assert [task.name for task in PairTasks(Cards(tmp_path), both_directions=False).tasks()] == ["cards_t2i"]
