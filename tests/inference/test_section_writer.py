"""What is written section by section equals what is written at once; draws depend on seed and prompt alone."""

import pytest
import torch
from policy_helpers import PROMPTS, policy_model

from embedrl.inference.section_writer import Draft, SectionWriter
from embedrl.models.vlm.reasoner import VLMReasoner

CPU = torch.device("cpu")
NAMES = ["image", "text"]
LENGTH = 8


@pytest.fixture(scope="module", params=["qwen", pytest.param("any", marks=pytest.mark.slow)])
def model(request):
    if request.param == "qwen":
        return policy_model(lora=False).eval()
    model = VLMReasoner("embedrl:tiny/qwen2_5_vl")
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model.build()
    return model.eval()


def rows(model):
    return model.preprocessor().prompt_rows([PROMPTS[name] for name in NAMES])


def written(model, **options):
    return SectionWriter(model, CPU, **{"max_new_tokens": LENGTH, "batch_size": 3, **options})


def greedy(model):
    inputs = model.preprocessor().prompts([PROMPTS[name] for name in NAMES])
    return model.generate(inputs, LENGTH)


def test_one_draw_at_temperature_0_is_greedy(model):
    writer = written(model, temperature=0.0)
    drafts = writer.whole(rows(model), NAMES, 1)
    assert [one.text for [one] in drafts] == greedy(model)
    assert writer.tokens == sum(len(one.tokens) for [one] in drafts)
    assert all(one.done for [one] in drafts)


@pytest.mark.parametrize("cut", [1, 5])
def test_what_goes_on_from_a_beginning_is_what_was_written_at_once(model, cut):
    writer = written(model)
    whole = [one for [one] in written(model, temperature=0.0).whole(rows(model), NAMES, 1)]
    begun = [Draft(one.tokens[:cut], "", 1) for one in whole]
    assert [one.tokens for one in writer.rest(rows(model), begun, NAMES)] == [one.tokens for one in whole]


def test_the_first_branch_is_the_likeliest_and_the_others_are_drawn(model):
    groups = written(model).sections(rows(model), [Draft()] * len(NAMES), NAMES, 3)
    assert [group[0].text for group in groups] == greedy(model)
    assert all(len({draft.tokens for draft in group}) == 3 for group in groups)
    alone = written(model).sections(rows(model)[1:], [Draft()], NAMES[1:], 3)
    assert alone == groups[1:], "whatever else is in the batch"
    assert written(model, seed=1).sections(rows(model)[1:], [Draft()], NAMES[1:], 3)[0][1:] != groups[1][1:]


def test_writing_pauses_at_a_text_and_goes_on(model):
    writer = written(model, max_new_tokens=20)
    [[whole]] = writer.whole(rows(model)[:1], NAMES[:1], 1)
    pieces = [model.processor.tokenizer.decode([token]) for token in whole.tokens]
    piece = next(text for text in pieces[2:] if len(text.strip()) > 1 and "\ufffd" not in text)
    [[first]] = writer._write(rows(model)[:1], [Draft()], NAMES[:1], 1, 1.0, (piece,))
    assert len(first.tokens) < len(whole.tokens)
    assert whole.tokens[: len(first.tokens)] == first.tokens
    assert piece in first.text
    assert not first.done


def test_a_t_cot_is_done_at_its_last_tag_its_longest_length_or_its_last_section(model):
    writer = written(model, max_new_tokens=3)
    assert writer._draft(1, (9, 9), "<thinking>so</thinking>") == Draft((9, 9), "<thinking>so</thinking>", 1, False)
    assert writer._draft(1, (9, 9), "so</answer>").done
    assert writer._draft(1, (9, model.ends[0]), "so").done
    assert writer._draft(1, (9, 9, 9), "so").done
    assert writer._draft(3, (9, 9), "so").done
