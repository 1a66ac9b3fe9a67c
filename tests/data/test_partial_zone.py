"""The order of pairs in the partial zone: what is taken, by whom, and from which batch on."""

import itertools

from embedrl.data.pair_dataset import SampleKey
from embedrl.data.partial_zone import PartialZone, ZonedSampler
from embedrl.data.sampler import SubBatchSampler


def sampler(zone, choices=3, keep=4, rank=0, world_size=1):
    drawn = SubBatchSampler(
        [60, 90], [1.0, 1.0], [False, False], batch_size=keep * choices, sub_batch_size=keep * choices, num_batches=5,
    )  # fmt: skip
    return ZonedSampler(drawn, keep, zone, ["a", "b"], lambda key: [f"{key.row}"], rank, world_size)


def drawn(start=0, batches=5):
    plain = SubBatchSampler([60, 90], [1.0, 1.0], [False, False], batch_size=12, sub_batch_size=12, num_batches=batches)
    plain.start = start
    return list(plain)


def test_what_is_not_known_takes_the_first_that_are_drawn():
    assert list(sampler(PartialZone())) == [keys[:4] for keys in drawn()]


def test_those_in_the_zone_come_first_then_the_nearest():
    zone = PartialZone()
    zone.known.append((2, lambda dataset, pair: int(pair) / 100 if dataset == "a" else 0.5))
    for number, (taken, keys) in enumerate(zip(sampler(zone), drawn(), strict=True)):
        if number < 2 or keys[0].source == 1:
            assert taken == keys[:4]
            continue
        outside = {key: max(0.1 - key.row / 100, key.row / 100 - 0.9, 0) for key in keys}
        assert taken == sorted(keys, key=outside.__getitem__)[:4]


def test_the_newest_measurement_that_holds_decides():
    zone = PartialZone()
    zone.known += [(0, lambda dataset, pair: 1.0 if pair == "x" else 0.5), (3, lambda *_: 0.5)]
    blocks = [["x"], ["y"]]
    assert [zone.choose(batch, "a", blocks, 1) for batch in (0, 2, 3)] == [[1], [1], [0]]


def test_processes_share_what_one_would_take():
    zone = PartialZone()
    zone.known.append((0, lambda dataset, pair: (int(pair) % 7) / 7))
    whole = list(sampler(zone))
    parts = [list(sampler(zone, rank=rank, world_size=2)) for rank in (0, 1)]
    assert [one + other for one, other in zip(*parts, strict=True)] == whole


def test_it_goes_on_in_the_middle():
    zone = PartialZone()
    zone.known.append((4, lambda dataset, pair: (int(pair) % 5) / 5))
    first = sampler(zone)
    whole = list(first)
    first.start = 5
    whole += list(first)
    later = sampler(zone)
    later.start = 3
    assert list(itertools.islice(later, 5)) == whole[3:8]


def test_a_batch_has_one_data_set_and_no_row_twice():
    zone = PartialZone()
    zone.known.append((0, lambda dataset, pair: (int(pair) * 37 % 100) / 100))
    for keys in sampler(zone):
        assert len({key.source for key in keys}) == 1
        assert len(set(keys)) == 4
        assert all(isinstance(key, SampleKey) for key in keys)
