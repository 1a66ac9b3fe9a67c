"""A disk without room, for tests of what is written."""

import resource
from contextlib import contextmanager


@contextmanager
def files_up_to(size):
    """The kernel refuses to let any file of this process grow beyond so many bytes, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
