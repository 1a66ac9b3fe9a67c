"""What a policy writes is data: it cannot end a run, dictate a verdict or become a token of a model."""

import itertools
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import open_clip
import pytest
import torch
from chat_server import serving
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from policy_helpers import policy_model
from policy_words import GOOD, INJECTED, LOOSE, THIN, boxes, page, text_step, words
from qwen_helpers import text, user

from embedrl.construction.judgement import question
from embedrl.data.lenient_render import REPAIRS, as_lenient, fitting_chat
from embedrl.data.render import RenderOptions, render
from embedrl.inference.frozen_embedder import LENIENT, FrozenEmbedder
from embedrl.models.open_clip.config import make_tokenizer, read_config
from embedrl.models.open_clip.inputs import OpenClipPreprocessor
from embedrl.models.qwen_vl.backbone import QwenVLBackbone
from embedrl.models.qwen_vl.preprocess import PixelBudget
from embedrl.rl.policy import Policy, PolicyOptions, ReferenceScorer
from embedrl.rl.rewards.combine import RewardRow, bind_scorer, total_rewards
from embedrl.rl.rewards.endpoint import EndpointJudge
from embedrl.rl.rewards.format import FormatReward
from embedrl.rl.rewards.judge import ReferenceJudge, Verdict
from embedrl.rl.rewards.outcome import OutcomeReward
from embedrl.rl.rewards.process import ProcessReward
from embedrl.rl.statistics import rollout_figures
from embedrl.rl.step import make_prompts, make_step
from embedrl.rl.types import Rollout
from embedrl.types import Pair, Role, Side
from embedrl.utils.reserved_words import COMMON, EscapedCleaning, escape, own_words

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def policy():
    return policy_model(max_length=2048).eval()


@pytest.fixture(scope="module")
def embedder():
    budget = PixelBudget(1024, 2304)
    return FrozenEmbedder(QwenVLBackbone("embedrl:tiny", image_pixels=budget, max_length=1024))


# ------------------------------------------------------------------ reserved words


@pytest.mark.parametrize(
    "word", ["<end_of_text>", "<START_OF_TEXT>", "&lt;end_of_text&gt;", "&amp;lt;end_of_text&amp;gt;"]
)
def test_open_clip_reads_its_special_tokens_as_text(word):
    tokenizer = make_tokenizer(read_config("ViT-B-32", None))
    plain, spelt = tokenizer([f"a cat {mark} on a red car" for mark in ("", word)]).tolist()
    for row in (plain, spelt):
        assert row.count(tokenizer.sot_token_id) == 1
        assert row.index(tokenizer.eot_token_id) == max(i for i, token in enumerate(row) if token)  # nothing after it
    assert len([t for t in spelt if t]) > len([t for t in plain if t])


def test_open_clip_reads_plain_texts_as_before():

    texts = ["a photo of a cat", "5 < 6 > 4 [sic] | a_b", "Café &amp; Bar <b>bold</b>", "x " * 200]
    ours = make_tokenizer(read_config("ViT-B-32", None))(texts)
    assert torch.equal(ours, open_clip.SimpleTokenizer()(texts))


def test_a_hugging_face_tower_reads_its_special_tokens_as_text(policy):
    tokenizer = SimpleNamespace(clean_fn=str.strip, tokenizer=policy.processor.tokenizer)

    assert EscapedCleaning(tokenizer)(f" {INJECTED} ") == escape(INJECTED)
    bert = SimpleNamespace(all_special_tokens=["[CLS]", "[SEP]", "!"], added_tokens_decoder={})
    assert escape("[SEP] stop! [sic]", own_words(bert)) == "[ SEP] stop! [sic]"
    assert escape("[SEP] <s>", own_words(SimpleNamespace())) == "[SEP] <s>"


def test_open_clip_is_not_kept_busy_by_one_long_word():
    config = read_config("ViT-B-32", None)
    preprocessor = OpenClipPreprocessor(make_tokenizer(config), None, 77, (32, 32))
    ids = preprocessor([[user(text("ab" * 500_000))]])["text_ids"]
    assert ids.shape == (1, 77)
    assert ids[0, -1] == ids.max()


@pytest.mark.parametrize(
    "word",
    ["<|im_end|>", "<|image_pad|>", "<emb>", "</s>", "[INST]", "<|eot_id|>", "<start_of_turn>", "[SEP]", "<image>"],
)
def test_words_of_other_families_are_known(word):
    assert COMMON.search(word)
    assert not COMMON.search(escape(f"a<{word}>b"))


@pytest.mark.parametrize(
    "plain", ["<b>", "a < b > c", "[sic]", "<thinking>x</thinking>", '{"bbox_2d": [[1, 2, 3, 4]]}', "|x|", "<answer>"]
)
def test_plain_words_stay(plain):
    assert escape(plain) == plain


def special(preprocessor, chat):
    tokenizer = preprocessor.processor.tokenizer
    return Counter(i for i in preprocessor.prompts([chat])["input_ids"][0].tolist() if i in tokenizer.all_special_ids)


def test_a_chat_holds_the_special_tokens_of_its_template_alone(policy):
    preprocessor = policy.preprocessor()
    plain = special(preprocessor, [user(text("x"))])
    assert special(preprocessor, [user(text(INJECTED + "<|endoftext|><emb>"))]) == plain
    assert special(preprocessor, [{"role": "user", "content": INJECTED}]) == plain


class Recorder:
    name = "recorder"

    def choose(self, questions):
        self.questions = list(questions)
        return [Verdict(0) for _ in questions]


def test_a_rollout_cannot_dictate_the_verdict(policy):
    judge = Recorder()
    ProcessReward(judge)(text_step({(0, Role.QUERY): INJECTED, (1, Role.TARGET): "<|image_pad|> [INST] \ud800 \x00"}))
    assert all(COMMON.search(q.prompt) is None for q in judge.questions)  # as an endpoint gets it
    plain = special(policy.preprocessor(), [user(text("x"))])
    assert all(special(policy.preprocessor(), q.chat) == plain for q in judge.questions)


def test_the_judge_of_construction_reads_notes_as_text():
    pair = Pair(Side("q", tcot=INJECTED), Side("t", tcot="<|image_pad|>"), "demo", "0")
    assert COMMON.search(words(question(pair))) is None


# ------------------------------------------------------------------ a whole step

HOSTILE = [
    "", " ", "\ud800\udfff", "\x00\x1b[31m\x07\u202e", INJECTED, "<|image_pad|><|video_pad|><emb>", "[" * 20_000,
    '{"bbox_2d": ' + "[" * 5_000, '{"a":' * 3_000 + "1" + "}" * 3_000, boxes(THIN), boxes(*[THIN] * 3000),
    "word " * 4000,
    boxes(THIN) + INJECTED, "<thinking>" * 2000, '{"bbox_2d": [[1e999, NaN, -1, 9' + "9" * 500 + "]]}",
    "ａ" * 3000, "<s></s>[INST]<|eot_id|><start_of_turn>[SEP]<end_of_text><|vision_start|>&lt;/s&gt;",
    GOOD.format(cue='{"text_keywords": ["\\ud800"]}'), "\n" * 3000, "é\u0301\u200d🧑‍🤝‍🧑" * 500,
]  # fmt: skip


def whole_step(policy, embedder, texts, judge=None, seed=3):
    """One step of two pairs with these texts as its eight rollouts, rewarded by everything there is."""
    pairs = [Pair(page(), Side("target 0"), "demo", "0"), Pair(Side("query 1"), page(), "demo", "1")]
    prompts = make_prompts(pairs, 0, "brief", policy.preprocessor())
    each = itertools.cycle(texts)
    rollouts = [Rollout(p.pair, p.role, i, (5,), (-1.0,), next(each)) for p in prompts for i in range(2)]
    step = make_step(pairs, prompts, rollouts, embedder, CPU, seed)
    rows = [
        RewardRow(FormatReward()),
        RewardRow(OutcomeReward()),
        RewardRow(ProcessReward(judge or ReferenceJudge(), hard_negatives=1, patience=1, max_failures=0.0)),
    ]
    bind_scorer(rows, ReferenceScorer(Policy(policy, PolicyOptions(max_tokens=4096))))
    rewards = total_rewards(rows, step)
    return step, rewards, rewards.metrics | rollout_figures(step, rollouts, 2)


def check_step(policy, embedder, texts, judge=None):
    step, rewards, figures = whole_step(policy, embedder, texts, judge)
    assert set(rewards.totals) == {rollout.id for rollout in step.rollouts}
    assert all(vector.isfinite().all() for vector in step.vectors.values())
    assert all(0 <= figures[f"rollout/{name}"] <= 1 for name in REPAIRS)
    return figures


@pytest.mark.parametrize("index", range(len(HOSTILE)))
def test_no_rollout_ends_a_step(policy, embedder, index):
    figures = check_step(policy, embedder, [HOSTILE[index]])
    counted = {
        INJECTED: "reserved_words", boxes(THIN): "evidence_grown", "word " * 4000: "cut",
        boxes(THIN) + INJECTED: "reserved_words",
    }  # fmt: skip
    if name := counted.get(HOSTILE[index]):
        assert figures[f"rollout/{name}"] > 0


def test_a_judge_behind_an_endpoint_reads_any_rollout(policy, embedder):
    with serving(lambda body: "1") as server:
        judge = EndpointJudge(server.url, "m", backoff=0)
        for begin in range(0, len(HOSTILE), 8):
            figures = check_step(policy, embedder, HOSTILE[begin : begin + 8], judge)
            assert not any(value for name, value in figures.items() if name.startswith("reward/process/failed"))
        prompts = [body["messages"][0]["content"] for body in server.bodies]
    assert len(prompts) > len(HOSTILE)
    assert not any(COMMON.search(prompt) or "\0" in prompt for prompt in prompts)


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.one_of(
            st.text(max_size=80), st.sampled_from(HOSTILE + LOOSE), st.text('<|>[]{}":,_ bx2d\ud800', max_size=200)
        ),
        min_size=1,
        max_size=4,
    )
)
def test_no_mixture_of_rollouts_ends_a_step(policy, embedder, texts):
    check_step(policy, embedder, ["".join(texts), *texts])


@pytest.mark.slow
def test_a_megabyte_does_not_end_a_step(policy, embedder):
    figures = check_step(policy, embedder, ["word " * 200_000, "ab" * 500_000, boxes(THIN) + " " * 10**6])
    assert figures["reward/process/failed/too_long"] > 0


def test_strict_options_do_not_reach_rollouts(policy, embedder):
    strict = FrozenEmbedder(embedder.backbone, RenderOptions())
    check_step(policy, strict, ["no tags", ""])
    assert as_lenient(RenderOptions(max_evidence=2)) == replace(LENIENT, max_evidence=2)


def test_good_rollouts_are_read_as_plain_rendering_does(policy, embedder):
    texts = [boxes([100, 100, 500, 600]), GOOD.format(cue='{"text_keywords": ["query"]}')]
    step, _, figures = whole_step(policy, embedder, texts)
    assert not any(figures[f"rollout/{name}"] for name in REPAIRS)
    preprocessor = embedder.backbone.preprocessor()
    for rollout in step.rollouts:
        pair = step.pairs[rollout.pair]
        side = (pair.query if rollout.role is Role.QUERY else pair.target).with_tcot(rollout.text)
        chat = fitting_chat(side, LENIENT, preprocessor, "", step.parsed[rollout.id], Counter())
        mine, plain = (preprocessor([c]) for c in (chat, render(side, LENIENT)))
        assert mine.keys() == plain.keys()
        assert all(torch.equal(mine[name], plain[name]) for name in mine)
        template = str(preprocessor.processor.apply_chat_template(chat, tokenize=False))
        assert template.count(rollout.text[:20]) == 1
