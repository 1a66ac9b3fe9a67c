import pytest
import torch
from safetensors.torch import save
from token_vectors import tokens

from embedrl.data.on_bad import BadSample
from embedrl.errors import DataError
from embedrl.evaluation.shards import metadata_of, packed, read_shard, write_shard

SIDES = {"one a side": torch.randn(4, 3), "one a token": tokens(2, 5, 1, 3, dtype=torch.float32)}


@pytest.mark.parametrize("kind", SIDES)
def test_a_file_holds_the_vectors_that_were_written(kind, tmp_path):
    content = packed(SIDES[kind])
    write_shard(tmp_path / "a", save(content, metadata_of(content, {})))
    assert torch.equal(read_shard(tmp_path / "a", 4), SIDES[kind])
    assert len(content["vectors"]) == (4 if kind == "one a side" else 11)


def test_a_file_of_bad_sides_alone_is_empty(tmp_path):
    content = packed(SIDES["one a token"][:0])
    write_shard(tmp_path / "a", save(content, metadata_of(content, {0: BadSample("toy", "0", "broken_row", "bad")})))
    assert read_shard(tmp_path / "a", 1).shape == (0, 1, 4)


@pytest.mark.parametrize(
    ("offsets", "message"), [([0, 2, 7, 7, 11], "another checksum"), ([0, 2, 11], r"not float32 \[4")]
)
def test_sides_that_begin_elsewhere_are_noticed(offsets, message, tmp_path):
    content = packed(SIDES["one a token"])
    broken = {**content, "offsets": torch.tensor(offsets)}
    write_shard(tmp_path / "a", save(broken, metadata_of(content, {})))
    with pytest.raises(DataError, match=message):
        read_shard(tmp_path / "a", 4)
