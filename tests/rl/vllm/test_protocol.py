"""What is sent to a rollout server, and which answers are refused."""

import base64
import copy
import io
import json

import numpy as np
import pytest
from PIL import Image
from policy_helpers import PROMPTS, picture

from embedrl.errors import EndpointError
from embedrl.models.sampling import SamplingOptions
from embedrl.rl.vllm.protocol import read_replies, to_request

PROMPT = [1, 7, 7, 2]
REQUEST = to_request(PROMPTS["text"], "policy-1", 2, 5, SamplingOptions(max_new_tokens=3), [90, 91])
ANSWER = {
    "model": "policy-1",
    "prompt_token_ids": PROMPT,
    "choices": [
        {
            "token_ids": [4, 5],
            "logprobs": {"content": [{"logprob": -0.5}, {"logprob": 0.0}]},
            "finish_reason": "stop",
            "message": {"content": "tokens count, not this"},
        },
        {"token_ids": [6] * 3, "logprobs": {"content": [{"logprob": -2}] * 3}, "finish_reason": "length"},
    ],
}


def read(answer):
    return read_replies(answer, REQUEST, PROMPT, {90, 91}, "http://host/v1 (policy-1)")


def test_a_good_answer():
    first, second = read(ANSWER)
    assert (first.tokens, first.logprobs, first.truncated) == ((4, 5), (-0.5, 0.0), False)
    assert (second.tokens, second.logprobs, second.truncated) == ((6, 6, 6), (-2.0,) * 3, True)


def changed(*path, to):
    """The answer with one thing put in another's place, or taken away (`to` is None)."""
    answer = copy.deepcopy(ANSWER)
    place = answer
    for key in path[:-1]:
        place = place[key]
    if to is None:
        del place[path[-1]]
    else:
        place[path[-1]] = to
    return answer


FIRST = ("choices", 0)
LOGPROB = (*FIRST, "logprobs", "content", 1, "logprob")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ([], "no chat completion"),
        ({}, "no chat completion"),
        ({"choices": "x"}, "no chat completion"),
        (changed("model", to="policy-0"), "by 'policy-0'"),
        (changed("prompt_token_ids", to=None), r"no prompt_token_ids.*return_token_ids"),
        (changed("prompt_token_ids", to=["1"]), "no prompt_token_ids"),
        (changed("prompt_token_ids", to=[1, 7, 2]), r"3 tokens, not 4, different from token 2 on.*mm-processor-kwargs"),
        (changed("prompt_token_ids", to=[*PROMPT, 3]), "5 tokens, not 4, different from token 4 on"),
        (changed("choices", 1, to=None), r"1 replies came back, not 2.*`n`"),
        (changed(*FIRST, to="x"), r"no token_ids.*return_token_ids"),
        (changed(*FIRST, "token_ids", to=None), r"no token_ids.*return_token_ids.*0\.10\.2"),
        (changed(*FIRST, "token_ids", to=[]), "no token_ids"),
        (changed(*FIRST, "token_ids", to=[4, True]), "no token_ids"),
        (changed(*FIRST, "token_ids", to=[4, 90]), r"token 90 was written.*logit_bias"),
        (changed(*FIRST, "logprobs", to=None), r"no log-probabilities.*max-logprobs"),
        (changed(*LOGPROB, to="x"), "no log-probabilities"),
        (changed(*FIRST, "logprobs", "content", 1, to=None), "2 tokens came back with 1 log-prob"),
        (changed(*LOGPROB, to=-9999.0), r"-9999\.0 is no log-probability.*processed_logprobs"),
        (changed(*LOGPROB, to=0.5), r"0\.5 is no log-probability"),
        (changed(*LOGPROB, to=float("nan")), "nan is no log-probability"),
        (changed(*FIRST, "finish_reason", to="abort"), "ended by 'abort'"),
        (changed(*FIRST, "finish_reason", to=None), "ended by None"),
        (changed("choices", 1, "token_ids", to=[6] * 4), "came back with"),
        (
            changed("choices", 1, to={"token_ids": [6] * 4, "logprobs": {"content": [{"logprob": -1}] * 4},
                                      "finish_reason": "length"}),
            "4 tokens: max_tokens 3 was ignored",
        ),
    ],
)  # fmt: skip
def test_a_bad_answer_is_refused_by_name(answer, message):
    with pytest.raises(EndpointError, match=message) as error:
        read(answer)
    assert str(error.value).startswith("http://host/v1 (policy-1)")
    assert "\n" not in str(error.value)


def test_nothing_is_left_to_the_servers_defaults():
    options = SamplingOptions(max_new_tokens=9, temperature=0.7, stop=("</answer>",))
    body = json.loads(json.dumps(to_request(PROMPTS["text"], "policy-1", 8, 2**52 - 1, options, [90, 91])))
    assert body["seed"] == 2**52 - 1
    assert body["logit_bias"] == {"90": -100.0, "91": -100.0}
    expected = {"n": 8, "max_tokens": 9, "temperature": 0.7, "top_p": 1.0, "top_k": -1, "min_p": 0.0,
                "repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0, "stop": ["</answer>"],
                "include_stop_str_in_output": True, "skip_special_tokens": False, "logprobs": True,
                "return_token_ids": True, "model": "policy-1"}  # fmt: skip
    assert body | expected == body
    assert "media_io_kwargs" not in body


def test_pictures_and_frames_travel_without_loss():
    frames = [picture(i, (32, 48)) for i in range(3)]
    content = [
        {"type": "image", "image": frames[0]},
        {"type": "video", "video": frames, "fps": 2.0},
        {"type": "text", "text": "and then ?"},
    ]
    body = to_request([{"role": "user", "content": content}], "m", 1, 0, SamplingOptions(), [])
    image, video, text = body["messages"][0]["content"]
    head, _, data = image["image_url"]["url"].partition(",")
    assert head == "data:image/png;base64"
    assert np.array_equal(decoded(data), frames[0])
    head, _, data = video["video_url"]["url"].partition(",")
    assert head == "data:video/jpeg;base64"
    assert all(np.array_equal(decoded(a), b) for a, b in zip(data.split(","), frames, strict=True))
    assert text == {"type": "text", "text": "and then ?"}
    assert body["media_io_kwargs"] == {"video": {"fps": 2.0, "num_frames": -1, "do_sample_frames": False}}


def decoded(data):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data, validate=True))))
