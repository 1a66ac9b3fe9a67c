import json

import pytest
from answering import small_index
from chat_server import serving
from PIL import Image

pytest.importorskip("lancedb")

from embedrl import QwenVLBackbone
from embedrl.cli import main
from embedrl.commands import answer as command
from embedrl.index import Index


@pytest.fixture
def index(tmp_path, monkeypatch):
    """An index whose model no command line can name."""
    index = small_index(tmp_path)
    monkeypatch.setattr(command, "open_with_models", lambda path, *options: Index.open(path, index.embedder))
    return index


def test_a_page_and_its_pictures(index, tmp_path, capsys):
    def reply(body):
        many = len(body["messages"][0]["content"])
        assert many
        if "Sentence 1" in json.dumps(body):
            return '[{"image": 1, "sentence": 1}, {"image": 1, "sentence": 2}, {"image": 77, "sentence": 1}]'
        return "A fox\x1b[31m [1]. It hunts [5]."

    with serving(reply) as server:
        words = ["answer", index.store.uri, "--question", "red fox", "--where", "modality = 'image'", "--vlm"]
        words += ["embedrl.construction.EndpointVLM", "--vlm.base_url", server.url, "--vlm.model", "m"]
        assert main([*words, "--out", str(tmp_path / "out")]) == 0
        said = capsys.readouterr()
        assert [line.removeprefix("embedrl: in a model's reply: ") for line in said.err.splitlines()[:-1]] == [
            "invented_source: 5",
            "repeated_image: 1",
            "invented_image: 77",
        ]
        assert said.err.splitlines()[-1] == f"embedrl: wrote {tmp_path}/out/answer.md"
        assert sorted(path.name for path in (tmp_path / "out/pictures").iterdir()) == ["1.jpg"]
        assert "](pictures/1.jpg)" in (tmp_path / "out/answer.md").read_text()
        assert main(words) == 0
        out = capsys.readouterr().out
        assert "(picture 1: " in out
        assert "## Sources" in out
        assert "\x1b" not in out
        asked = len(server.bodies)
        assert main([*words, "--out", str(tmp_path / "out")]) == 2
        assert "there is something already" in capsys.readouterr().err
        assert len(server.bodies) == asked  # no model is asked in vain


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_everything_in_this_process(tmp_path, monkeypatch, capsys):
    """Index, Embedder and a model that answers, all by their names on the command line."""
    monkeypatch.chdir(tmp_path)
    backbone = QwenVLBackbone("embedrl:tiny")
    backbone.build()
    backbone.export(tmp_path / "model")
    (tmp_path / "photos").mkdir()
    for color in ("red", "blue"):
        Image.new("RGB", (64, 48), color).save(tmp_path / f"photos/{color}.png")
    build = "index build photos --out x.lance --embedder model --device cpu"
    ask = (
        "answer x.lance --question red --out page --device cpu --pictures files --inserter_style brief "
        "--vlm embedrl.construction.LocalVLM --vlm.path embedrl:world_base --vlm.max_tokens 8"
    )
    for words in (build, ask):
        assert main(words.split()) == 0, capsys.readouterr().err
    page = (tmp_path / "page/answer.md").read_text()
    assert "## Sources\n\n1. " in page
    assert all(f"{color}.png" in page for color in ("red", "blue"))
