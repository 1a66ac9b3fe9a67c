"""The 78 + 16 data sets, and figures that others published of them."""

from collections import Counter

import pytest
import torch

from embedrl.errors import ConfigError
from embedrl.evaluation.averages import averages, missing
from embedrl.evaluation.published import published
from embedrl.evaluation.readers.read_task import READERS
from embedrl.evaluation.table import load_table, rows_of
from embedrl.metrics.ranking import rank
from embedrl.metrics.retrieval import mean_metrics

GROUPS = {
    "image/cls": 10, "image/qa": 10, "image/ret": 12, "image/gd": 4,
    "video/cls": 5, "video/qa": 5, "video/ret": 5, "video/mret": 3,
    "visdoc/vidore_v1": 10, "visdoc/vidore_v2": 4, "visdoc/visrag": 6, "visdoc/ood": 4,
}  # fmt: skip
DOMAINS = {"CG": 3, "S": 2, "T": 2, "PR": 3, "LC": 2, "CMP": 2, "VIS": 2}
BOTH = [*load_table("mmeb_v2"), *load_table("uvrb")]
METRICS = mean_metrics(rank(torch.ones(1, 2), torch.ones(1, 2), [{0: 1.0}]))
IDS = [f"{row.benchmark}/{row.name}" for row in BOTH]


def test_sizes():
    assert Counter(row.group for row in load_table("mmeb_v2")) == GROUPS
    assert Counter(row.group for row in load_table("uvrb")) == DOMAINS
    counts = {row.name: row.num_queries for row in load_table("mmeb_v2")}
    assert all(counts[row.name] == 1000 for row in load_table("mmeb_v2") if row.group.startswith("image/"))
    assert sum(counts.values()) == 36_000 + 34_940 + 12_590
    assert [counts[name] for name in ("MVBench", "Breakfast", "MomentSeeker")] == [4000, 433, 1602]


@pytest.mark.parametrize("row", BOTH, ids=IDS)
def test_a_row_can_be_read_and_scored(row):
    assert row.reader in READERS
    assert row.ranking in ("local", "global")
    assert row.version
    assert row.paths["rows"]
    assert not any("{name}" in path or path.startswith("/") for path in row.paths.values())
    assert row.main_metric in METRICS


def test_main_metrics_and_rankings():
    rows = {row.name: row for row in load_table("mmeb_v2")}
    for row in rows.values():
        assert row.main_metric == ("ndcg_linear@5" if row.group.startswith("visdoc/") else "hit@1")
        whole = row.group.startswith(("visdoc/", "video/ret")) or row.name in ("K700", "HMDB51", "UCF101", "Breakfast")
        assert row.ranking == ("global" if whole else "local")
    other = {row.name: row.main_metric for row in load_table("uvrb") if row.main_metric != "recall@1"}
    assert other == {"CMRB": "recall@10", "LoVR-TH": "recall@10", "MS-TI": "precision@1", "MS-TV": "precision@1"}
    assert [row.name for row in load_table("uvrb") if row.ranking == "local"] == ["MS-TI", "MS-TV"]


def test_prompts_belong_to_their_sets():
    """Released code keeps prompts under keys that do not match the sets' names, and silently asks without them."""
    own = {row.name for row in BOTH if row.reader == "image_rows"}  # their rows carry the prompts
    assert {
        f"{row.benchmark}/{row.name}" for row in BOTH if not row.instruction.strip() and row.name not in own
    } == set()
    prompts = {row.name: row.instruction for row in load_table("uvrb")}
    assert prompts["MSRVTT"].startswith("Find the clip that corresponds")  # there "MSR-VTT"
    assert prompts["VDC-O"] == "Find the video according to the object description."  # there missing
    assert prompts["CRB-S"] == "Find the video according to the spatial description."  # there asked for as "CRB_S"
    assert len(set(prompts.values())) == 16


BLOCK = "- {group: g, reader: uvrb, ranking: global, main_metric: hit@1, num_queries: 1, version: v, sets: [%s]}"


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        ("{name: a, instructon: find}", "b/a: unknown key 'instructon'"),
        ("a, a", "b: a stands in the table twice"),
        ("{name: a, version: null}", "b/a: a key is missing"),
    ],
)
def test_a_faulty_table_is_refused(sets, message):
    with pytest.raises(ConfigError, match=message):
        rows_of(BLOCK % sets, "b")


def test_a_set_overrides_its_block():
    rows = rows_of(BLOCK % "a, {name: c, version: 'w {name}', paths: {rows: 'x/{name}'}}", "b")
    assert [(row.name, row.version, dict(row.paths)) for row in rows] == [("a", "v", {}), ("c", "w c", {"rows": "x/c"})]


def test_all_is_the_mean_of_the_sets_not_of_the_modalities():
    scores = {row.name: {"image": 0.0, "video": 0.0, "visdoc": 78.0}[row.group.split("/")[0]] for row in BOTH[:78]}
    out = averages("mmeb_v2", scores)
    assert (out["image"], out["visdoc"], out["All"]) == (0, 78, 24)
    names = "image/cls image/qa image/ret image/gd image video/cls video/qa video/ret video/mret video"
    names += " visdoc/vidore_v1 visdoc/vidore_v2 visdoc/visrag visdoc/ood visdoc All"
    assert list(out) == names.split()


def test_a_missing_set_is_named_and_never_averaged_away():
    scores = {row.name: 50.0 for row in load_table("mmeb_v2")}
    del scores["MSVD"]
    out = averages("mmeb_v2", scores)
    assert missing("mmeb_v2", scores) == ["MSVD"]
    assert [name for name, value in out.items() if value is None] == ["video/ret", "video", "All"]
    uvrb = {row.name: 50.0 for row in load_table("uvrb") if row.name not in ("CRB-T", "MS-TV")}
    gone = [name for name, value in averages("uvrb", uvrb).items() if value is None]
    assert missing("uvrb", uvrb) == ["CRB-T", "MS-TV"]
    assert gone == [
        "dataset AVG", "T", "FG", "CMP", "TXT", "ability AVG", "FG (GVE)", "TXT (GVE)", "ability AVG (GVE)",
    ]  # fmt: skip
    assert set(averages("uvrb", {}).values()) == {None}


@pytest.mark.parametrize(
    ("benchmark", "scores", "message"),
    [
        ("uvrb", {"CRB_S": 1.0}, "uvrb has no data set 'CRB_S': do you mean 'CRB-S'"),
        ("uvrb", {"MSR-VTT": 1.0}, "do you mean 'MSRVTT'"),
        ("mmeb_v2", {"zzz": 1.0}, "mmeb_v2 has no data set 'zzz'$"),
        ("mmeb_v2", {"ViDoSeek-page": 1.0, "ViDoSeek-page-fixed": 2.0}, "two scores for ViDoSeek-page-fixed"),
        ("mteb", {}, "no benchmark 'mteb': give one of mmeb_v2, uvrb"),
    ],
)
def test_scores_under_names_that_do_not_exist(benchmark, scores, message):
    for function in (averages, missing):
        with pytest.raises(ConfigError, match=message):
            function(benchmark, scores)


PUBLISHED = [(benchmark, model) for benchmark in ("mmeb_v2", "uvrb") for model in published(benchmark)]


@pytest.mark.parametrize(("benchmark", "model"), PUBLISHED)
def test_published_means_follow_from_published_figures(benchmark, model):
    """Figures of one decimal give a mean to within 0.05, and the mean is printed to within 0.05."""
    figures = published(benchmark)[model]
    out = averages(benchmark, figures.sets)
    compared = {name: printed for name, printed in figures.means.items() if out[name] is not None}
    assert len(compared) >= 10
    for name, printed in compared.items():
        assert (abs(out[name] - printed) < 0.1 + 1e-9) == (name not in figures.errata), name


def test_published_means_to_the_printed_digit():
    for model in ("Embed-RL-2B", "Embed-RL-4B"):
        figures = published("mmeb_v2")[model]
        assert len(figures.sets) == 78
        out = averages("mmeb_v2", figures.sets)
        assert {name: round(value + 1e-9, 1) for name, value in out.items()} == figures.means
    means = {model: figures.means["All"] for model, figures in published("mmeb_v2").items()}
    assert means == {
        "VLM2Vec-V2-2B": 58.0, "UME-R1-2B": 60.1, "UME-R1-7B": 64.5, "Embed-RL-2B": 66.8, "Embed-RL-4B": 68.1,
    }  # fmt: skip
    assert missing("mmeb_v2", published("mmeb_v2")["UME-R1-7B"].sets) == []  # under the names of the old page sets
    domains = averages("uvrb", published("uvrb")["Embed-RL-2B"].sets)
    assert [round(domains[name], 1) for name in ("CG", "FG", "LC", "TXT", "ability AVG")] == [
        59.1,
        54.6,
        86.9,
        61.1,
        58.7,
    ]
    theirs = averages("uvrb", published("uvrb")["GVE-3B"].sets)
    assert [round(theirs[name], 1) for name in ("FG (GVE)", "TXT (GVE)", "ability AVG (GVE)")] == [54.1, 61.9, 57.1]


@pytest.mark.parametrize(("benchmark", "model"), PUBLISHED)
def test_published_figures_have_a_source_and_the_tables_names(benchmark, model):
    figures = published(benchmark)[model]
    assert "arXiv" in figures.source
    assert figures.version
    assert set(figures.means) <= set(averages(benchmark, figures.sets))
    assert set(figures.errata) <= set(figures.means)
    assert all(0 < value < 100 for value in [*figures.sets.values(), *figures.means.values()])
