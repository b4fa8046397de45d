"""Words that options about pictures take. Needs nothing, so that help is there at once."""

from typing import Literal

Color = Literal["bgr", "rgb"]  # the order of an array's channels
OnError = Literal["raise", "skip", "record"]  # what to do about a picture that cannot be read
