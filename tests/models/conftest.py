import pytest
from qwen_helpers import write_checkpoint


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """A tiny checkpoint folder with random weights."""
    return write_checkpoint(tmp_path_factory.mktemp("tiny"))
