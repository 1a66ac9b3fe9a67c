"""Document sets in BEIR's three tables, with graded relevance."""

import io
import math

import pytest
import torch
from local_copies import judged, set_row, write_lines, write_parquet, write_picture
from PIL import Image

from embedrl.errors import DataError
from embedrl.evaluation.pages import write_pages
from embedrl.evaluation.readers.beir import page_name
from embedrl.evaluation.readers.read_task import read_task
from embedrl.metrics.ranking import rank
from embedrl.metrics.retrieval import mean_metrics

GRADES = {f"page-{number}": 1 + number % 3 for number in range(12)}


def write_set(root, folder, pages, qrels, queries=((1, "what ?"),), images=None):
    data = root / "visdoc-tasks/data" / folder
    write_parquet(data / "queries/test-00000-of-00001.parquet", [{"query-id": i, "query": q} for i, q in queries])
    write_parquet(data / "corpus/test-00000-of-00001.parquet", [{"corpus-id": p, "image": b"png"} for p in pages])
    rows = [{"query-id": q, "corpus-id": p, "score": s} for q, p, s in qrels]
    write_parquet(data / "qrels/test-00000-of-00001.parquet", rows)
    for page in pages:
        write_picture(root / "visdoc-tasks/images" / (images or folder) / f"{page}.png")


def test_graded_relevance_stays_with_its_page(tmp_path):
    """A published evaluator pairs `set(labels)` with the scores: whoever reads so fails here."""
    pages = [*GRADES, "other-1", "other-2"]
    qrels = [(1, page, grade) for page, grade in GRADES.items()]
    qrels += [(1, "other-1", 0), (1, "page-3", 3), (1, "page-3", 2)]  # no relevance; of duplicates the largest
    write_set(tmp_path, "MMLongBench-doc", pages, qrels)
    task, skipped = read_task(set_row("mmeb_v2", "MMLongBench-doc"), tmp_path)
    assert skipped == {}
    assert judged(task, 0) == {**GRADES, "page-3": 3}
    assert task.candidate_ids == pages
    assert task.pools is None
    # The whole way to the figure: pages in the order of the corpus, each a little less similar than the one before.
    angles = torch.linspace(0.1, 1.0, len(pages), dtype=torch.float64)
    vectors = torch.stack([angles.cos(), angles.sin()], dim=1)
    ranking = rank(torch.tensor([[1.0, 0.0]], dtype=torch.float64), vectors, task.qrels)
    grades = [judged(task, 0).get(page, 0) for page in pages]
    gains = [grade / math.log2(place + 2) for place, grade in enumerate(grades[:5])]
    ideal = [grade / math.log2(place + 2) for place, grade in enumerate(sorted(grades, reverse=True)[:5])]
    assert mean_metrics(ranking)["ndcg_linear@5"] == pytest.approx(sum(gains) / sum(ideal), abs=1e-12)


def test_ids_texts_and_pictures(tmp_path):
    queries = [(3, "water use ?"), (4, "who ?")]
    qrels = [(3, 10, 1), (4, 11, 1)]
    write_set(tmp_path, "esg_reports_v2", [10, 11], qrels, queries, "esg_reports_v2_multilingual")
    task, _ = read_task(set_row("mmeb_v2", "ViDoRe_esg_reports_v2_multilingual"), tmp_path)
    assert task.query_ids == ["3", "4"]
    assert task.queries[0].text == "Find a document image that matches the given query: water use ?"
    assert task.candidates[1].text == "Understand the content of the provided document image."
    assert task.candidates[1].images[0].name == "visdoc-tasks/images/esg_reports_v2_multilingual/11.png"
    assert (task.main_metric, task.version) == ("ndcg_linear@5", "vidore/esg_reports_v2")


def test_long_names_of_visrag_pages(tmp_path):
    page = "a" * 60 + ".jpg"
    assert page_name(page) == "a" * 50 + "_83885e80.jpg"  # from md5sum
    data = tmp_path / "visdoc-tasks/data/VisRAG-Ret-Test-ChartQA"
    write_lines(data / "queries.jsonl", [{"query-id": "q", "query": "how many"}])
    write_lines(data / "corpus.jsonl", [{"corpus-id": page}])
    write_lines(data / "qrels.jsonl", [{"query-id": "q", "corpus-id": page, "score": 1}])
    write_picture(tmp_path / "visdoc-tasks/images/VisRAG_ChartQA" / page_name(page))
    task, _ = read_task(set_row("mmeb_v2", "VisRAG_ChartQA"), tmp_path)
    assert task.candidate_ids == [page]


def test_the_page_sets_name_their_version():
    assert set_row("mmeb_v2", "ViDoSeek-page-fixed").version == "VLM2Vec/ViDoSeek-page-fixed"
    assert set_row("mmeb_v2", "MMLongBench-page-fixed").version == "VLM2Vec/MMLongBench-page-fixed"


FAULTS = [
    ([(1, "p", 1), (1, "unknown", 1)], [(1, "a")], "qrel to an unknown candidate", "query 1: its candidate 'unknown'"),
    ([(1, "p", 1), (2, "p", 1)], [(1, "a")], "qrel of an unknown query", "qrels of query 2"),
    ([(1, "p", 1), (2, "p", 0)], [(1, "a"), (2, "b")], "query without a relevant candidate", "no relevant candidate"),
    ([(1, "p", 1)], [(1, "a"), (1, "b")], "repeated query", "query 1 occurs twice"),
    ([(1, "p", 1), (1, "p", math.nan)], [(1, "a")], "unreadable row", "'score' is nan"),
]


@pytest.mark.parametrize(("qrels", "queries", "cause", "message"), FAULTS, ids=[cause for *_, cause, _ in FAULTS])
def test_faulty_judgements(tmp_path, qrels, queries, cause, message):
    write_set(tmp_path, "ViDoSeek", ["p", "r"], qrels, queries, "ViDoSeek-doc")
    row = set_row("mmeb_v2", "ViDoSeek-doc")
    with pytest.raises(DataError, match=f"^ViDoSeek-doc: .*{message}"):
        read_task(row, tmp_path)
    task, skipped = read_task(row, tmp_path, on_bad="skip")
    assert skipped == {cause: 1}
    assert [judged(task, 0), len(task.queries)] == [{"p": 1}, 1]


def test_a_missing_page(tmp_path):
    write_set(tmp_path, "ViDoSeek", ["p", "r"], [(1, "p", 1)], images="ViDoSeek-doc")
    (tmp_path / "visdoc-tasks/images/ViDoSeek-doc/r.png").unlink()
    row = set_row("mmeb_v2", "ViDoSeek-doc")
    with pytest.raises(DataError, match=r"ViDoSeek-doc: candidate r: picture .*r\.png does not exist"):
        read_task(row, tmp_path)
    task, skipped = read_task(row, tmp_path, on_bad="skip")
    assert skipped == {"missing picture": 1}
    assert task.candidate_ids == ["p"]


def test_pages_out_of_the_corpus(tmp_path, capsys):
    write_set(tmp_path, "ViDoSeek-page-fixed", [], [(1, "p", 1)])
    picture = io.BytesIO()
    Image.new("RGB", (3, 5), "blue").save(picture, "jpeg")
    corpus = tmp_path / "visdoc-tasks/data/ViDoSeek-page-fixed/corpus/test-00000-of-00001.parquet"
    write_parquet(corpus, [{"corpus-id": "p", "image": {"bytes": picture.getvalue(), "path": None}}])
    row = set_row("mmeb_v2", "ViDoSeek-page-fixed")
    with pytest.raises(DataError, match="embedrl data pages"):
        read_task(row, tmp_path)
    write_pages(tmp_path)
    assert "ViDoSeek-page-fixed: wrote 1 pages" in capsys.readouterr().out
    assert read_task(row, tmp_path)[0].candidates[0].images[0].load().size == (3, 5)
    write_pages(tmp_path, ["ViDoSeek-page-fixed"])
    assert "wrote 0 pages" in capsys.readouterr().out  # what is there stays
    with pytest.raises(DataError, match="no local copy of ViDoSeek-doc: check --root"):
        write_pages(tmp_path, ["ViDoSeek-doc"])
    write_parquet(corpus, [{"corpus-id": "r", "image": {"bytes": None, "path": "r.png"}}])
    with pytest.raises(DataError, match="row 0: 'image' holds no bytes"):
        write_pages(tmp_path)


@pytest.mark.parametrize(
    "name", ["../../../escaped", "/tmp/escaped", "a/../../x", "a\\..\\..\\x", "p" * 300, "x\0y", "", "./p", "a//b"]
)
@pytest.mark.parametrize("folder", ["ViDoSeek-page-fixed", "VisRAG-Ret-Test-ChartQA"])
def test_an_id_that_cannot_be_a_page_is_refused_by_name(tmp_path, folder, name):
    """The second set's pages are named by a hash."""
    root = tmp_path / "deep/er"
    set_name = {"VisRAG-Ret-Test-ChartQA": "VisRAG_ChartQA"}.get(folder, folder)
    rows = [{"corpus-id": "ok/1", "image": {"bytes": b"png"}}, {"corpus-id": name, "image": {"bytes": b"png"}}]
    write_parquet(root / "visdoc-tasks/data" / folder / "corpus.parquet", rows)
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    good = name == "x\0y" or (set_name == "VisRAG_ChartQA" and name == "p" * 300)  # `x y`; cut to 50 letters
    if good:
        write_pages(root, [set_name])
    else:
        with pytest.raises(DataError, match=f"{set_name}: corpus.parquet, row 1: corpus-id: .*: give "):
            write_pages(root, [set_name])
    written = {path for path in tmp_path.rglob("*") if path.is_file()} - before
    assert len(written) == 1 + good
    assert all(path.is_relative_to(root / "visdoc-tasks/images" / set_name) for path in written)


def test_a_page_without_an_id_is_named(tmp_path):
    write_lines(tmp_path / "visdoc-tasks/data/ViDoSeek-page-fixed/corpus.jsonl", ["no object"])
    with pytest.raises(DataError, match=r"ViDoSeek-page-fixed: corpus\.jsonl, row 0: corpus-id: .* is not an object"):
        write_pages(tmp_path)
