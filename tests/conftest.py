"""What all tests share."""

import signal

import matplotlib as mpl
import pytest
import torch

mpl.use("Agg")

# The networks of the tests are tiny: a second thread costs more than it gives, and
# much more where another process holds the second core.
torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def _one_thread_in_workers():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


@pytest.fixture
def ctrl_c():
    """Python's handler of Ctrl-C, also where tests run in the background of a shell."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
