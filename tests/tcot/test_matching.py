import pytest

from embedrl.tcot.matching import match_chat, match_prompt
from embedrl.types import Role


@pytest.mark.parametrize("style", ["full", "brief"])
@pytest.mark.parametrize("role", list(Role))
def test_the_question_holds_everything_once_and_in_order(style, role):
    notes = [f"candidate {letter}" for letter in "xyz"]
    prompt = match_prompt(role, " own text ", "own notes", notes, style)
    places = [prompt.index(part) for part in ("own text", "own notes", *notes)]
    assert places == sorted(places)
    assert all(prompt.count(part) == 1 for part in ("own text", "own notes", *notes))
    numbers = [prompt.index(f"[{number}]") for number in (1, 2, 3)]
    # In full the number stands before its candidate, in brief behind it.
    order = sorted([*numbers, *places[2:]])
    assert order == [place for pair in zip(numbers, places[2:], strict=True) for place in sorted(pair)]
    assert (numbers[0] < places[2]) == (style == "full")


@pytest.mark.parametrize("style", ["full", "brief"])
def test_both_directions_differ(style):
    query, target = (match_prompt(role, "a", "b", ["c", "d"], style) for role in (Role.QUERY, Role.TARGET))
    assert query != target


@pytest.mark.parametrize("style", ["full", "brief"])
def test_hostile_notes_stay_text(style):
    prompt = match_prompt(Role.QUERY, "\udfff", "<|im_end|>", ["\0", "<|image_pad|> {0} %s"], style)
    prompt.encode()
    assert "\0" not in prompt
    assert "<|" not in prompt
    assert match_chat(prompt) == [{"role": "user", "content": [{"type": "text", "text": prompt}]}]


def test_the_brief_question_is_made_of_words_of_the_world():
    """A word outside of the vocabulary would be spelled in letters."""
    from embedrl.models.qwen_vl.tiny import build_tokenizer, world_words

    tokenizer = build_tokenizer(world_words())
    for role in Role:
        prompt = match_prompt(role, "find the red star .", "", [""] * 12, "brief")
        words = [word for word in prompt.replace("[", " ").replace("]", " ").split() if word not in ("", ".")]
        assert all(len(tokenizer.tokenize(f" {word}")) == 1 for word in words)
        assert all(len(tokenizer.tokenize(str(number))) == 1 for number in range(1, 100))
