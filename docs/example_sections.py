"""Our docstrings say "Example:"; griffe shows code only under "Examples:"."""

from typing import Any

import griffe


class ExampleSections(griffe.Extension):
    """Rename the section before it is read."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Look at one docstring."""
        if obj.docstring is not None:
            obj.docstring.value = obj.docstring.value.replace("\nExample:\n", "\nExamples:\n")
