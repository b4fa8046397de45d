"""The languages in which PaliGemma was trained to caption and answer."""

from typing import Final

LANGUAGES: Final = (
    *("ar", "bn", "cs", "da", "de", "el", "en", "es", "fa", "fi", "fil", "fr"),
    *("he", "hi", "hr", "hu", "id", "it", "ja", "ko", "mi", "nl", "no", "pl"),
    *("pt", "ro", "ru", "sv", "sw", "te", "th", "tr", "uk", "vi", "zh"),
)
"""35 codes. Source: google-research/big_vision, configs/proj/paligemma/transfers/coco35l.py."""
