import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedrl.answer.sentences import as_markdown, cited, split_sentences

TEXTS = [
    ("", []),
    (" \n", []),
    ("42.", ["42."]),
    ("A fox", ["A fox"]),
    ("A fox. An owl! Why? Because …", ["A fox.", "An owl!", "Why?", "Because …"]),
    ("It is 3.5 m long, e.g. here. Yes.", ["It is 3.5 m long, e.g. here.", "Yes."]),
    ("A fox. [1][2] An owl [3].", ["A fox. [1][2]", "An owl [3]."]),
    ("1. A fox\n2. An owl\n\n- a cat", ["1. A fox", "2. An owl", "- a cat"]),
    ('He said "No." Then he left.', ['He said "No."', "Then he left."]),
    ("狐です。梟です。", ["狐です。", "梟です。"]),
]


@pytest.mark.parametrize(("text", "sentences"), TEXTS)
def test_sentences(text, sentences):
    assert [sentence.strip() for sentence in split_sentences(text)] == sentences


@given(st.text() | st.text(alphabet='a1 .!?\n[]"A。'))
def test_sentences_joined_are_the_text(text):
    sentences = split_sentences(text)
    assert "".join(sentences) == (text if text.strip() else "")
    assert all(sentence.strip() for sentence in sentences)


@pytest.mark.parametrize("text", ["." * 200_000, ". " * 100_000, "." + " " * 200_000, ".[1" * 60_000, ".]" * 90_000])
def test_a_long_reply_takes_no_longer_than_its_length(text):
    split_sentences(text)
    cited(text)


def test_citations():
    assert cited("x [2] y [1, 3] z [2] [no] [1234567]") == [2, 1, 3]


@pytest.mark.parametrize(
    "text", ["![x](/etc/passwd)", "[a]: javascript:x", "<script>", "```\ncode", "~~~", "&lt;", "\\[x]"]
)
def test_nothing_in_a_text_works_as_markdown(text):
    markdown = pytest.importorskip("markdown_it").MarkdownIt("gfm-like", {"linkify": False})
    tokens = markdown.parse(as_markdown(text))
    kinds = {token.type for token in tokens} | {child.type for token in tokens for child in token.children or ()}
    assert kinds <= {"paragraph_open", "inline", "paragraph_close", "text", "text_special", "softbreak"}
    shown = "".join(child.content or "\n" for token in tokens for child in token.children or ())
    assert shown == text
