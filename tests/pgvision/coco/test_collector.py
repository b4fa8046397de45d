"""The garbage collector is left as it was found."""

import gc

import pytest

from pgvision.coco.content import without_collecting


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
