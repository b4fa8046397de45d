"""How many tokens an example costs, and how many a checkpoint was trained with."""

import math
import re

from pgvision.errors import OptionError

RESOLUTIONS = (224, 448, 896)
_FIXED = 3  # <bos>, the newline that ends a prefix, <eos>
_SPECIAL = re.compile(r"<(?:loc\d{4}|seg\d{3})>")
_BLANK_BEFORE = re.compile(r"\s(?=<(?:loc|seg)\d)")
_WORD = re.compile(r"\w+|[^\w\s]")
_LETTERS_A_PIECE = 6


def token_budget(kind: str, resolution: int) -> int:
    """Return how many text tokens (prefix and suffix) a checkpoint was trained with.

    Args:
        kind: One of `pgvision.tokens.KINDS`.
        resolution: 224, 448 or 896.

    Raises:
        OptionError: If the resolution is none of these.

    Source:
        google-research/big_vision, configs/proj/paligemma/README.md: 128 for pt at 224, 256 for
        mix at 224, 512 above.

    Example:
        >>> token_budget("pt", 224), token_budget("mix", 224), token_budget("pt", 448)
        (128, 256, 512)
    """
    if resolution not in RESOLUTIONS:
        raise OptionError(
            f"resolution={resolution}: the budget is known for 224, 448 and 896; give budget=..."
        )
    if resolution > 224:
        return 512
    return 256 if kind == "mix" else 128


def estimate_tokens(text: str) -> int:
    """Estimate the tokens of a prefix or suffix without a tokenizer, on the high side.

    Location and mask tokens are counted, and the blank before them, which joins no word; words
    are taken as a piece for every six letters, signs as one each.

    Args:
        text: A prefix or a suffix.

    Example:
        >>> estimate_tokens("<loc0001><loc0002><loc0003><loc0004> helmet ; ")
        6
    """
    words = _WORD.findall(_SPECIAL.sub(" ", text))
    num_special = len(_SPECIAL.findall(text)) + len(_BLANK_BEFORE.findall(text))
    return num_special + sum(math.ceil(len(w) / _LETTERS_A_PIECE) for w in words)


def example_tokens(num_prefix: int, num_suffix: int) -> int:
    """Add what every example has beside prefix and suffix: ``<bos>``, newline, ``<eos>``."""
    return num_prefix + num_suffix + _FIXED
