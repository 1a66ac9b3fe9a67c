import pytest
import torch
from qwen_helpers import image, text, user, video
from torch.nn import functional
from transformers import AutoModelForImageTextToText

from embedrl.models.packing import IGNORE
from embedrl.models.qwen_vl.positions import mrope_positions
from embedrl.models.qwen_vl.reasoner import QwenVLReasoner
from embedrl.types import Lesson

LESSONS = [
    Lesson([user(image(0), text("what is this ?"))], "red star", "a"),
    Lesson([user(text("a longer question without any picture , is it ?"))], 'yes {"bbox_2d": [[20, 40, 60, 80]]}', "b"),
    Lesson([user(video(1), text("and then ?"))], "blue circle", "c"),
]


@pytest.fixture(scope="module")
def reasoner(checkpoint):
    model = QwenVLReasoner(str(checkpoint))
    model.build()
    return model.eval()


def test_labels_lie_on_the_reply_and_its_end_alone(reasoner):
    inputs = reasoner.preprocessor().lessons(LESSONS)
    tokenizer = reasoner.processor.tokenizer
    for row, lesson in enumerate(LESSONS):
        labels = inputs["labels"][row]
        kept = labels != IGNORE
        assert tokenizer.decode(labels[kept]) == lesson.reply + "<|im_end|>"
        assert torch.equal(labels[kept], inputs["input_ids"][row][kept])
        last = int(kept.nonzero()[-1])
        assert inputs["attention_mask"][row, last + 1 :].sum() == 0


def test_the_prompt_of_a_lesson_is_the_prompt_of_generation(reasoner):
    preprocess = reasoner.preprocessor()
    lessons, prompts = preprocess.lessons(LESSONS), preprocess.prompts([lesson.chat for lesson in LESSONS])
    for row in range(len(LESSONS)):
        length = int((lessons["labels"][row] != IGNORE).nonzero()[0])
        prompt = prompts["input_ids"][row][prompts["attention_mask"][row].bool()]
        assert prompts["attention_mask"][row, -1] == 1  # padded on the left
        assert torch.equal(lessons["input_ids"][row, :length], prompt)


@torch.no_grad()
def test_the_loss_is_the_cross_entropy_of_transformers(reasoner, tmp_path):
    inputs = reasoner.preprocessor().lessons(LESSONS)
    reasoner.export(tmp_path)
    model = AutoModelForImageTextToText.from_pretrained(tmp_path).eval()
    expected = model(**inputs).loss
    torch.testing.assert_close(reasoner(inputs), expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_greedy_replies_equal_a_plain_loop_and_do_not_depend_on_the_batch(reasoner):
    preprocess, tokenizer = reasoner.preprocessor(), reasoner.processor.tokenizer
    chats = [lesson.chat for lesson in LESSONS]
    replies = reasoner.generate(preprocess.prompts(chats), max_new_tokens=6)
    assert replies == [reasoner.generate(preprocess.prompts([chat]), max_new_tokens=6)[0] for chat in chats]
    config = reasoner.network.config
    for chat, reply in zip(chats, replies, strict=True):
        inputs = preprocess.prompts([chat])
        written = []
        for _ in range(6):  # the whole sequence anew for every token, without a cache
            logits = reasoner.network.lm_head(reasoner.hidden_states(inputs)[0, -1])
            logits[[config.image_token_id, config.video_token_id]] = -torch.inf
            token = logits[: len(tokenizer)].argmax().view(1, 1)
            if int(token) == tokenizer.eos_token_id:
                break
            written.append(int(token))
            for name, value in (
                ("input_ids", token),
                ("attention_mask", 1 + 0 * token),
                ("mm_token_type_ids", 0 * token),
            ):
                inputs[name] = torch.cat([inputs[name], value.to(inputs[name].dtype)], dim=1)
            inputs["position_ids"] = mrope_positions(inputs, 2)
        assert reply == tokenizer.decode(written)


@torch.no_grad()
def test_tokens_that_stand_for_pixels_are_never_written(checkpoint):
    model = QwenVLReasoner(str(checkpoint))
    model.build()
    config, tokenizer = model.network.config, model.processor.tokenizer
    banned = [config.image_token_id, config.video_token_id, config.vision_start_token_id, config.vision_end_token_id]
    # Make the forbidden tokens, and the rows that no token owns, the likeliest by far.
    weight = model.network.get_input_embeddings().weight
    hidden = model.hidden_states(model.preprocessor().prompts([LESSONS[1].chat]))[0, -1]
    weight[[*banned, *range(len(tokenizer), len(weight))]] = 5 * functional.normalize(hidden, dim=0)
    prompts = model.preprocessor().prompts([lesson.chat for lesson in LESSONS])
    torch.manual_seed(0)
    for temperature in (0.0, 1.0):
        for reply in model.generate(prompts, max_new_tokens=8, temperature=temperature):
            ids = tokenizer(reply, add_special_tokens=False)["input_ids"]
            assert ids
            assert not set(ids) & set(banned)
    # ... so what was written can be read again, and the next batch is not offset by the last.
    assert model.core.rope_deltas is None


@torch.no_grad()
def test_sampling_follows_the_seed_and_greedy_does_not(reasoner):
    prompts = reasoner.preprocessor().prompts([LESSONS[0].chat] * 4)

    def draw(seed, temperature):
        torch.manual_seed(seed)
        return reasoner.generate(prompts, max_new_tokens=6, temperature=temperature)

    assert draw(0, 1.0) == draw(0, 1.0) != draw(1, 1.0)
    assert len(set(draw(0, 1.0))) > 1
    assert draw(0, 0.0) == draw(1, 0.0)
    assert len(set(draw(0, 0.0))) == 1


@torch.no_grad()
def test_a_stop_text_ends_the_reply_and_stays_in_it(reasoner):
    prompts = reasoner.preprocessor().prompts([LESSONS[0].chat])
    whole = reasoner.generate(prompts, max_new_tokens=8)[0]
    tokenizer = reasoner.processor.tokenizer
    stop = tokenizer.decode(tokenizer(whole, add_special_tokens=False)["input_ids"][:2])
    found = reasoner.generate(prompts, max_new_tokens=8, stop=[stop])[0]
    # The token that completes the stop text may say more than it.
    assert stop in found
    assert whole.startswith(found)
    assert len(found) < len(whole)


def test_generation_leaves_a_later_loss_alone(reasoner):
    inputs = reasoner.preprocessor().lessons(LESSONS)
    before = reasoner(inputs)
    reasoner.generate(reasoner.preprocessor().prompts([LESSONS[2].chat]), max_new_tokens=2)
    assert torch.equal(reasoner(inputs), before)
