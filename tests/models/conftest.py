import pytest
import torch
from qwen_helpers import write_checkpoint


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """A tiny checkpoint folder with random weights."""
    return write_checkpoint(tmp_path_factory.mktemp("tiny"))
