"""A cold start does not look for garbage where there is none."""

import gc
import subprocess
import sys

import pytest

from pgvision.collecting import without_collecting

# Several seconds: a process of its own has to import torch.
_COLD = """
import gc, sys
looks = []
gc.callbacks.append(lambda phase, info: looks.append(info["generation"] == 2))
from pgvision import Detector
looks.clear()
from pgvision.runtime.opening import open_generator
open_generator("tiny")
assert "transformers.modeling_utils" in sys.modules
print(sum(looks), gc.isenabled(), gc.get_freeze_count())
"""


def test_importing_torch_looks_for_no_garbage():
    done = subprocess.run([sys.executable, "-c", _COLD], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", "True", "0"]


@pytest.mark.parametrize("was_on", [True, False])
def test_collecting_is_left_as_it_was_found(was_on):
    gc.enable() if was_on else gc.disable()
    try:
        with pytest.raises(ImportError), without_collecting():
            assert not gc.isenabled()
            raise ImportError
        assert gc.isenabled() is was_on
    finally:
        gc.enable()
