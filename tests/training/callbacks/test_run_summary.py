from embedrl.training.callbacks.run_summary import _table


def test_scores_are_a_row_a_task():
    scores = {"val/vqa/hit@1": 0.5, "val/hit@1": 0.25, "val/cls/hit@1": 0.0, "val/vqa/ndcg@5": 1.0, "val/a/b/hit@1": 1}
    head, *rows = [line.split() for line in _table(scores)]
    assert head == ["last", "validation", "hit@1", "ndcg@5"]
    assert rows == [["a/b", "1.000"], ["cls", "0.000"], ["vqa", "0.500", "1.000"], ["mean", "0.250"]]
    assert _table({}) == []
