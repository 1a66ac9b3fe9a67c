"""What an endpoint says about the likeliest first tokens: read if it can be, never an exception."""

import math

import pytest

from embedrl.utils.chat_answer import first_token


def choice(*tokens):
    return {
        "logprobs": {
            "content": [
                {"token": token, "top_logprobs": [{"token": t, "logprob": v} for t, v in tops.items()]}
                for token, tops in tokens
            ]
        }
    }


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (choice(("Yes", {"Yes": -0.1, "No": -3})), {"Yes": -0.1, "No": -3.0}),
        (choice(("\n", {"\n": 0}), (" Yes", {" Yes": -0.2})), {" Yes": -0.2}),
        (choice(('"', {'"': 0}), ("No", {"No": -0.3})), {"No": -0.3}),
        (choice(("<think>", {"<think>": 0}), ("Yes", {"Yes": 0})), {"<think>": 0.0}),
        (choice(("...", {"...": -1})), {"...": -1.0}),
        (choice(("Yes", {"Yes": 1e-7, "No": math.nan, "no": 1e9, "NO": -math.inf})), {"Yes": 0.0, "NO": -math.inf}),
        (choice(), None),
        (choice(("Yes", {"Yes": "x"})), None),
        (choice(("Yes", {"Yes": 10**400})), None),
        ({"logprobs": {"content": [{"top_logprobs": []}]}}, None),
        ({"logprobs": {"content": "Yes"}}, None),
        ({"logprobs": None}, None),
        ({}, None),
    ],
)
def test_the_likeliest_first_tokens(given, expected):
    assert first_token(given) == expected
