"""The code for GPUs, on a device that only looks like one; `test_gpu.py` needs one."""

import subprocess
import sys
from pathlib import Path

import pytest
from torch.utils import backend_registration

SCRIPT = Path(__file__).with_name("_on_simulated_gpu.py")
pytestmark = pytest.mark.skipif(
    not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"),
    reason="PyTorch is too old to simulate a device",
)


@pytest.mark.parametrize(
    "case", ["the_device", "steps", "featurizer default", "featurizer paper"]
)
def test_a_gpu_would_do_what_the_cpu_does(case):
    done = subprocess.run(
        [sys.executable, "-W", "error", SCRIPT, *case.split()],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
