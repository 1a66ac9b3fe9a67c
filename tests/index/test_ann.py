"""The approximate index: when it is built, what verify says of it, and that its advice holds."""

import re
from functools import partial

import numpy as np
import pytest
from toy_embedder import ToyBackbone

pytest.importorskip("lancedb")

from embedrl import cli
from embedrl.api import Embedder
from embedrl.errors import ConfigError
from embedrl.index import Index, ann
from embedrl.index import index as index_module
from embedrl.index.ann import keep_fresh

ROWS = 300


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    """An index that has grown above the size from which on there is an ANN index."""
    rng = np.random.default_rng(0)
    texts = ["".join(map(chr, rng.integers(33, 127, 12))) for _ in range(ROWS)]
    index = Index.create(tmp_path_factory.mktemp("ann") / "x.lance", Embedder(ToyBackbone(), device="cpu"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index_module, "keep_fresh", partial(keep_fresh, rows=256))
        index.add(texts[:255], batch=255)
        index.small = index.stats()["search"], index.verify()
        index.add(texts[255:260])
        index.large = index.stats()["search"]
        index.add(texts[260:], batch=64)
    return index


def test_it_is_built_above_a_size_and_kept_up_to_date(index):
    assert index.small[0] == "exact"
    assert "ANN index: none, searches are exact" in str(index.small[1])
    assert index.large == "ANN"
    # 40 rows came behind the 260 that it was built over: more than a tenth
    assert index.store.table.index_stats(ann.NAME).num_unindexed_rows == 0


def test_verify_prints_its_recall(index, capsys):
    assert cli.main(["index", "verify", index.store.uri, "--queries", "20"]) == 0
    (share,) = re.findall(r"ANN index: recall@10 (\S+) against exact search, 20 queries\n", capsys.readouterr().out)
    assert 0.95 <= float(share) <= 1


def test_verify_names_what_raises_a_low_recall(index, monkeypatch):
    monkeypatch.setattr(ann, "NPROBES", 1)
    monkeypatch.setattr(ann, "REFINE", 1)
    report = index.verify(queries=60)
    assert [(one.nprobes, one.refine) for one in report.recalls] == [(1, 1), (4, 1), (17, 40)]
    shares = [one.share for one in report.recalls]
    assert shares == sorted(shares)
    assert shares[0] < ann.ENOUGH <= shares[-1]
    settings = re.findall(r"embedrl search --nprobes (\d+) --refine (\d+): recall@10 (\S+)", str(report))
    assert len(settings) == 2
    vectors = np.concatenate([np.stack(batch["vector"].to_numpy(False)) for batch in index.store.read(["vector"])])
    for nprobes, refine, share in settings:
        shares = [_share(index, vectors, one, int(nprobes), int(refine)) for one in vectors[::5]]
        # other queries: the standard error of the difference is about 0.05
        assert np.mean(shares) == pytest.approx(float(share), abs=0.2)
    monkeypatch.setattr(ann, "ENOUGH", 2.0)
    monkeypatch.setattr("embedrl.index.verify.ENOUGH", 2.0)
    assert str(index.verify(queries=1)).endswith("embedrl search --exact true: recall@10 1")


def _share(index, vectors, query, nprobes, refine):
    """Share of the 10 best by numpy among those that a search returns."""
    scores = [hit.score for hit in index.search(vector=query, k=10, nprobes=nprobes, refine=refine)]
    return np.mean(np.array(scores) >= np.sort(vectors @ query)[-10] - 1e-5)


@pytest.mark.parametrize("options", [{"nprobes": 0}, {"refine": 0}])
def test_wrong_settings(index, options):
    with pytest.raises(ConfigError, match=f"--{next(iter(options))} 0: give 1 or more"):
        index.search("a", **options)
