"""The key of a model behind an endpoint: what its answers depend on."""

import pytest

from embedrl.construction.vlm import EndpointVLM

BASE = {"base_url": "http://127.0.0.1:1/v1", "model": "m"}


@pytest.mark.parametrize(
    ("changed", "other"),
    [
        ({}, False),
        ({"base_url": "http://127.0.0.1:2/v1"}, False),
        ({"timeout": 9, "retries": 1, "concurrency": 2, "backoff": 0.1, "api_key_env": "KEY"}, False),
        ({"model": "served-as", "name": "m"}, False),
        ({"extra": {}}, False),
        ({"model": "other"}, True),
        ({"name": "other"}, True),
        ({"max_pixels": 300}, True),
        ({"image_format": "jpeg"}, True),
        ({"extra": {"chat_template_kwargs": {"enable_thinking": False}}}, True),
        ({"temperature": 0.5}, True),
        ({"max_tokens": 64}, True),
    ],
)
def test_what_changes_answers_changes_the_key_and_nothing_else(changed, other):
    key = EndpointVLM(**BASE).key
    assert (EndpointVLM(**{**BASE, **changed}).key != key) is other
    assert key.startswith("m#")
