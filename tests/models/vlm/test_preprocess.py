import pickle
from collections import Counter

import pytest
import torch
from plain_vlm import CHATS, QUICK, families
from qwen_helpers import EMB, image, text, user, video

from embedrl.data.lenient_render import as_lenient, fitting_chat
from embedrl.data.render import RenderOptions
from embedrl.errors import ConfigError, DataError
from embedrl.models.qwen_vl.preprocess import PixelBudget
from embedrl.models.vlm.backbone import VLMBackbone
from embedrl.types import Side
from embedrl.utils.reserved_words import word_list


@pytest.fixture(scope="module")
def preprocess():
    return VLMBackbone(f"embedrl:tiny/{QUICK}").preprocessor()


def test_it_pickles_without_weights_and_agrees_with_itself(preprocess):
    data = pickle.dumps(preprocess)
    assert len(data) < 1e6
    ours, theirs = preprocess(CHATS), pickle.loads(data)(CHATS)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@families()
def test_lengths_are_about_those_in_tokens(name):
    preprocess = VLMBackbone(f"embedrl:tiny/{name}").preprocessor()
    picture, words = [user(image(0)), EMB], [user(text("one two three four " * 8)), EMB]
    for chat in (picture, words, [user(*[image(i) for i in range(5)]), EMB]):
        tokens = int(preprocess([chat])["attention_mask"].sum())
        assert tokens / 4 < preprocess.length(chat) < 2 * tokens


@pytest.mark.parametrize(
    ("chat", "message"),
    [
        ([user(text("a word " * 40)), EMB], "'<|im_start|>user.*more than max_length=30"),
        ([user(text("see <|image_pad|> here")), EMB], "holds <|image_pad|>"),
        ([user()], "without content"),
        ([user(image(size=(1000, 2))), EMB], "1000.?x.?2"),
    ],
)
def test_chats_that_cannot_be_represented_are_errors(chat, message):
    preprocess = VLMBackbone(f"embedrl:tiny/{QUICK}", max_length=30).preprocessor()
    with pytest.raises(DataError, match=message.replace("|", r"\|")):
        preprocess([chat])


SIZES = [(1, 1), (150, 1), (201, 1), (1, 201), (500, 3), (7, 1000), (4000, 30)]


@families()
def test_a_picture_that_cannot_be_read_is_a_bad_sample(name):
    """Nothing else comes out of what runs over samples: `on_bad: skip` leaves out `DataError` alone."""
    preprocess = VLMBackbone(f"embedrl:tiny/{name}").preprocessor()
    calls = (preprocess.length, preprocess.fits, lambda chat: preprocess([chat]), lambda c: preprocess.prompts([c]))
    for size in SIZES:
        errors = []
        for call in calls:
            for part in (image(size=size), video(frames=2, size=size)):
                try:
                    call([user(part, text("a")), EMB])
                except DataError as error:
                    errors.append(error)
        assert {error.cause for error in errors} <= {"thin_picture"}
        assert all(f"{size[0]}x{size[1]}" in str(error).replace(" x ", "x") for error in errors)
        assert errors or 201 not in size


@families(default=())
def test_words_of_the_model_stay_text(name):
    preprocess = VLMBackbone(f"embedrl:tiny/{name}").preprocessor()
    words = [w for w in preprocess.processor.tokenizer.all_special_tokens if w not in preprocess.placeholders]
    ids = preprocess([[user(text("harmless")), EMB]])["input_ids"][0].tolist()
    for word in words:
        one = preprocess.processor.tokenizer.convert_tokens_to_ids(word)
        assert preprocess([[user(text(f"a {word} b")), EMB]])["input_ids"][0].tolist().count(one) == ids.count(one), (
            word
        )


@families()
def test_what_a_policy_writes_is_escaped_before_a_familys_embedder_reads_it(name):
    """A data set with a word that marks pixels is refused; a T-CoT must not be, whatever a policy writes."""
    preprocess = VLMBackbone(f"embedrl:tiny/{name}").preprocessor()
    side = Side(
        "a star", tcot=" ".join(["He wrote", *word_list(preprocess.processor.tokenizer), *preprocess.placeholders])
    )
    repairs = Counter()
    chat = fitting_chat(side, as_lenient(RenderOptions()), preprocess, "a/1", None, repairs)
    assert repairs["reserved_words"] == 1
    shown, plain = (preprocess([c])["input_ids"][0].tolist() for c in (chat, [user(text("a star")), EMB]))
    special = set(preprocess.processor.tokenizer.all_special_ids)
    assert Counter(i for i in shown if i in special) == Counter(i for i in plain if i in special)


def test_the_budget_of_a_picture_is_kept_where_there_is_one():
    def grid(**options):
        backbone = VLMBackbone(f"embedrl:tiny/{QUICK}", **options)
        return backbone.preprocessor()([[user(image()), EMB]])["image_grid_thw"].tolist()

    assert grid() == [[1, 6, 6]]
    assert grid(image_pixels=PixelBudget(16**2, 32**2)) == [[1, 4, 4]]
    with pytest.raises(ConfigError, match="image_pixels: a GotOcr2ImageProcessor has no budget"):
        VLMBackbone("embedrl:tiny/internvl", image_pixels=PixelBudget(1, 2)).preprocessor()


def test_other_options_go_to_the_processor_by_name():
    chat = [user(image(size=(96, 48))), EMB]
    few, many = (
        VLMBackbone("embedrl:tiny/internvl", image_settings={"max_patches": n}).preprocessor()([chat]) for n in (1, 4)
    )
    assert (len(few["pixel_values"]), len(many["pixel_values"])) == (1, 3)
    with pytest.raises(ConfigError, match=r"image_settings\.max_patch: .* has no such option, but max_patches"):
        VLMBackbone("embedrl:tiny/internvl", image_settings={"max_patch": 4}).preprocessor()
    with pytest.raises(ConfigError, match="video_settings: this family reads the frames of a video as pictures"):
        VLMBackbone("embedrl:tiny/gemma3", video_settings={"size": None}).preprocessor()


@families(default=())
def test_a_video_of_one_frame_and_frames_of_two_sizes_are_read(name):
    preprocess = VLMBackbone(f"embedrl:tiny/{name}").preprocessor()
    single, pair = video(1, frames=1), video(1, frames=2)
    mixed = {**pair, "video": [pair["video"][0], pair["video"][1].resize((40, 90))]}
    for part in (single, mixed):
        assert preprocess([[user(part, text("what ?")), EMB]])["attention_mask"].all()


def test_what_a_processor_cannot_read_is_an_error_of_the_data():
    preprocess = VLMBackbone("embedrl:tiny/lfm2_vl").preprocessor()
    with pytest.raises(DataError, match="cannot be processed: stack expects each tensor"):
        preprocess([[user(image(size=(900, 8)), text("x")), EMB]])
