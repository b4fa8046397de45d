"""What users are told once: that a checkpoint was not taught the words that it is asked with."""

import logging
from typing import Final

_LOG: Final = logging.getLogger(__name__)
_MOST: Final = 20  # a data set may hold thousands of questions
_SAID: Final[set[str]] = set()


def warn_once(warning: str | None) -> None:
    """Log a warning, if there is one and this process has not logged it before."""
    if warning is None or warning in _SAID or len(_SAID) > _MOST:
        return
    _SAID.add(warning)
    _LOG.warning("%s", warning if len(_SAID) <= _MOST else "further unknown words are not named")
