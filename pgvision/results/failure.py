"""What stands in a list of results where a frame could not be answered."""

from dataclasses import dataclass

from pgvision.errors import OptionError, PgvisionError
from pgvision.results.checks import require_count


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A frame that could not be read or answered, recorded instead of raised.

    Attributes:
        source: The path, address or name of what failed.
        index: 0-based position within its source.
        error: Why, as the error that ``on_error="raise"`` would have raised.

    Example:
        >>> from pgvision.errors import ImageError
        >>> failure = Failure(source="a.jpg", index=0, error=ImageError("0 bytes"))
        >>> failure.ok, failure.to_dict()["message"]
        (False, '0 bytes')
    """

    source: str
    index: int
    error: PgvisionError

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
            OptionError: If ``error`` is not one of pgvision's, or ``index`` no whole number.
        """
        require_count(self.index, "index")
        if not isinstance(self.error, PgvisionError):
            raise OptionError(f"error must be a PgvisionError, got {self.error!r}")

    @property
    def ok(self) -> bool:
        """False: there is no answer here."""
        return False

    def to_dict(self) -> dict[str, object]:
        """Write the failure as plain Python values, ready for ``json.dumps``.

        Returns:
            ``type``, ``source``, ``index``, ``error`` (the error's class) and ``message``.

        Example:
            >>> from pgvision.errors import ImageError
            >>> Failure(source="a.jpg", index=0, error=ImageError("0 bytes")).to_dict()["error"]
            'ImageError'
        """
        return {
            "type": "Failure",
            "source": self.source,
            "index": self.index,
            "error": type(self.error).__name__,
            "message": str(self.error),
        }
