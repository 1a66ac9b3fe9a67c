import numpy as np
import pytest
import torch
from loss_batches import unit
from sentence_transformers.util import quantize_embeddings
from sentence_transformers.util.quantization import _dequantize_embeddings

from embedrl.losses.storage import Bounds, bytes_of, int8_codes, int8_values, signs, stored


@pytest.fixture
def corpus():
    vectors = unit(120, 24).float()
    vectors[:, 5] = 0.25  # a number that never changes
    return vectors


def test_int8_codes_are_those_of_sentence_transformers(corpus):
    bounds = Bounds.of(corpus[:70]).joined(Bounds.of(corpus[70:]))
    ranges = np.stack([bounds.low.numpy(), bounds.high.numpy()])
    queries = 1.5 * unit(30, 24, seed=1).float()  # some lie out of bounds
    for vectors in (corpus, queries):
        expected = quantize_embeddings(vectors.numpy(), "int8", ranges=ranges)
        assert np.array_equal(int8_codes(vectors, bounds).numpy(), expected)
    own = quantize_embeddings(corpus.numpy(), "int8")
    assert np.array_equal(int8_codes(corpus, bounds).numpy(), own)


def test_int8_values_are_the_middles_of_the_steps(corpus):
    bounds = Bounds.of(corpus)
    codes = int8_codes(corpus, bounds)
    values = int8_values(codes, bounds)
    lower = torch.tensor(_dequantize_embeddings(codes.numpy(), "int8", np.stack([bounds.low, bounds.high])))
    half = (bounds.step / 2).where(bounds.high > bounds.low, 0)
    torch.testing.assert_close(values - lower.float(), half.expand(120, -1), atol=1e-6, rtol=0)
    # The largest value of each number has a step of its own above it, which nothing else reaches.
    assert ((values - corpus).abs() <= bounds.step / 2 + 1e-6).all()
    assert torch.equal(values[:, 5], corpus[:, 5])


def test_signs_are_the_bits_of_sentence_transformers(corpus):
    corpus[0, :3] = 0.0
    bits = np.unpackbits(quantize_embeddings(corpus.numpy(), "ubinary"), axis=1)
    assert np.array_equal(signs(corpus).numpy() > 0, bits > 0)
    hamming = (bits[:, None] != bits[None]).sum(2)
    assert np.array_equal((signs(corpus) @ signs(corpus).T).numpy(), 24 - 2 * hamming)
    unit_signs = stored(corpus, "binary", Bounds.of(corpus))
    torch.testing.assert_close(unit_signs.norm(dim=1), torch.ones(120))


@pytest.mark.parametrize("precision", ["float32", "int8", "binary"])
def test_bytes_are_those_of_the_arrays(precision):
    vectors = unit(200, 100).float().numpy()
    assert bytes_of(100, precision) == quantize_embeddings(vectors, precision)[0].nbytes
