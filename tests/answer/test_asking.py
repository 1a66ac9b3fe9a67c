import json

import pytest
from answering import TEXTS, Replies, images_of, small_index, texts_of
from chat_server import asked_pictures, asked_text, serving
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("lancedb")

import embedrl
from embedrl.answer import answer_question
from embedrl.construction import EndpointVLM
from embedrl.errors import ConfigError, DataError, EndpointError
from embedrl.utils.chat_client import Completion, NoAnswer

NOTHING = "[]"


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    return small_index(tmp_path_factory.mktemp("index"))


def at(answer, text):
    """Number of the source with a text."""
    (number,) = [source.number for source in answer.sources if source.hit.text == text]
    return number


def test_an_answer_with_its_pictures(index):
    fox = next(i for i, hit in enumerate(index.search("red fox", k=3), 1) if hit.text == TEXTS[0])
    vlm = Replies(f"<think>hm</think>A fox hunts [{fox}]. It sleeps.", json.dumps([{"image": fox, "sentence": 2}]))
    answer = answer_question(index, "red fox", vlm)
    assert answer.sentences == (f"A fox hunts [{fox}].", "It sleeps.")
    assert [(one.image, one.sentence) for one in answer.placements] == [(fox, 2)]
    assert answer.problems == ()
    assert [source.hit.text for source in answer.sources] == [hit.text for hit in index.search("red fox", k=8)]

    asked, inserted = vlm.chats
    assert [image.size for image in images_of(asked)] == [(256, 192)] * 2  # thumbnails of the two pictures
    sources = texts_of(asked)[1:-1]
    assert [text.partition(" ")[0] for text in sources] == ["[1]", "[2]", "[3]"]
    assert f"[{fox}] a red fox< |im_end|> at night\n" in sources
    assert texts_of(asked)[-1] == "Question: red fox"
    assert len(images_of(inserted)) == 2
    assert f"Sentence 1: A fox hunts [{fox}].\nSentence 2: It sleeps." in texts_of(inserted)[0]
    assert f"Picture {fox}: a red fox< |im_end|> at night\n" in texts_of(inserted)


def test_files_instead_of_thumbnails(index):
    vlm = Replies("A fox.", NOTHING)
    answer = answer_question(index, "red fox", vlm, pictures="files", k=3)
    assert [image.size for image in images_of(vlm.chats[0])] == [(400, 300)] * 2
    assert [source.image is None for source in answer.sources].count(True) == 1


@pytest.mark.parametrize(
    ("replies", "problems"),
    [
        (["A fox [9] [1].", "no"], ["invented_source", "invalid_json"]),
        (["", NOTHING], ["empty_reply"]),
        (["<think>only</think> \n", NOTHING], ["empty_reply"]),
        ([Completion("A fox", truncated=True), Completion('[{"image": 1', truncated=True)],
         ["cut_off", "cut_off", "invalid_json"]),
        (["A fox.", '[{"image": "/etc/passwd", "sentence": 1}]'], ["bad_entry"]),
        (["A fox.", '[{"image": 9, "sentence": 1}]'], ["invented_image"]),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_reply_is_named(index, replies, problems):
    answer = answer_question(index, "red fox", Replies(*replies))
    assert [problem.name for problem in answer.problems] == problems
    assert answer.placements == ()
    assert answer.markdown()


def test_a_source_without_a_picture_is_not_placed_and_nothing_is_asked_without_any(index):
    boat = at(answer_question(index, "a boat", Replies("A boat.", NOTHING)), "a boat")
    answer = answer_question(index, "a boat", Replies("A boat.", json.dumps([{"image": boat, "sentence": 1}])))
    assert [str(problem) for problem in answer.problems] == [f"invented_image: {boat}"]
    only = Replies("A boat.")
    assert answer_question(index, "a boat", only, where="modality = 'text'").problems == ()
    assert len(only.chats) == 1


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(), st.text())
def test_no_reply_raises(index, monkeypatch, reply, placement):
    hits = index.search("red fox", k=3)
    monkeypatch.setattr(index, "search", lambda *args, **options: hits)  # the same search each time
    answer = answer_question(index, "red fox", Replies(reply, placement))
    assert answer.markdown().endswith("\n")
    assert len(answer.sentences) > 0 or answer.problems


def test_two_models_behind_an_endpoint(index):
    def reply(body):
        return "A fox." if body["model"] == "answers" else '[{"image": 1, "sentence": 1}, {"image": 2, "sentence": 1}]'

    with serving(reply) as server:
        vlm, inserter = (EndpointVLM(server.url, name, backoff=0) for name in ("answers", "inserts"))
        answer = answer_question(index, "red fox", vlm, inserter, where="modality = 'image'")
        assert [body["model"] for body in server.bodies] == ["answers", "inserts"]
        assert asked_text(server.bodies[0]).startswith("Answer the question")
        assert [picture.size for picture in asked_pictures(server.bodies[1])] == [(256, 192)] * 2
    assert [one.image for one in answer.placements] == [1, 2]


def test_errors_that_are_no_models_fault(index):
    with pytest.raises(EndpointError, match="the test: no answer: http_500"):
        answer_question(index, "red fox", Replies(NoAnswer("http_500")))
    with pytest.raises(DataError, match="the search returned nothing"):
        answer_question(index, "red fox", Replies(), where="modality = 'video'")
    with pytest.raises(ConfigError, match="--question is empty"):
        answer_question(index, " ", Replies())


@pytest.mark.slow
def test_a_reasoner_answers_in_this_process(index):
    reasoner = embedrl.Reasoner.from_pretrained("embedrl:world_base", device="cpu", max_new_tokens=12)
    answer = answer_question(index, "what is at the top left ?", reasoner, style="brief")
    assert len(answer.sources) == 3
    again = answer_question(index, "what is at the top left ?", reasoner, style="brief")
    assert (again.text, again.placements, again.problems) == (answer.text, answer.placements, answer.problems)
