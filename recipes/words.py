"""The words that the small tokenizers know whole."""

from pathlib import Path
from typing import Final

from transformers import PreTrainedTokenizerFast

from recipes.scenes.wordings import all_words

_SPACE: Final = "\u2581"
# Names that photographs bring, and words that people ask with.
MORE_WORDS: Final = (
    *("person", "people", "persons", "hat", "hard", "hats", "red", "white", "blood", "cell"),
    *("cells", "platelet", "platelets", "man", "men", "woman", "women", "car", "cars"),
    *("safety", "wears", "wearing", "without", "with", "everyone", "everybody", "anyone"),
    *("anybody", "nobody", "somebody", "someone", "not", "all", "any", "every", "count", "read"),
)


def words_of_tokenizer(folder: Path) -> list[str]:
    """Return the whole words that a checkpoint's tokenizer has a piece for."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    pieces = tokenizer.get_vocab()
    return [
        piece.removeprefix(_SPACE)
        for piece in pieces
        if piece.startswith(_SPACE) and len(piece) > 1 and piece.removeprefix(_SPACE) in pieces
    ]


def known_words(tiny: Path) -> list[str]:
    """Return tiny's words, those of every wording of the questions, and those of photographs."""
    return sorted({*words_of_tokenizer(tiny), *all_words(), *MORE_WORDS})
