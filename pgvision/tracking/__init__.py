"""Tracking over a video: `tracks` (ByteTrack), `zones` and lines that count them."""

from typing import Literal

Anchor = Literal["center", "bottom"]
"""Point of a box that counts: its centre, or the middle of its lower edge."""
