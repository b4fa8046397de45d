"""Values of image options; imports nothing, so that --help is fast."""

from typing import Literal

Color = Literal["bgr", "rgb"]  # the order of an array's channels
OnError = Literal["raise", "skip", "record"]  # what to do about a picture that cannot be read
