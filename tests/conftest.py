import pytest


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Two test processes share two cores, and sums are the same everywhere."""
    import torch  # here, not above: the process that hands out the tests needs none

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """A tiny checkpoint folder with random weights."""
    from qwen_helpers import write_checkpoint

    return write_checkpoint(tmp_path_factory.mktemp("tiny"))
