"""A cold start does not look for garbage where there is none."""

import gc

import pytest

from pgvision.collecting import without_collecting


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
