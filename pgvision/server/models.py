"""The checkpoints that a service answers with: loading, ready, or failed."""

import logging
import threading
import time
from collections.abc import Callable, Sequence

from pgvision.errors import PgvisionError
from pgvision.runtime import CheckpointCard, Generator, find_checkpoint
from pgvision.server.batcher import Batcher
from pgvision.server.metrics import Metrics
from pgvision.server.refusals import Refusal

_LOG = logging.getLogger(__name__)
Load = Callable[[str], Generator]


class Served:
    """One checkpoint.

    Args:
        name: As the user named it; what requests call it.
    """

    def __init__(self, name: str | None) -> None:
        self.card: CheckpointCard = find_checkpoint(name)
        self.name = self.card.name
        self.since = time.time()
        self.error: PgvisionError | None = None
        self._batcher: Batcher | None = None

    def start(self, generator: Generator, batch_size: int, metrics: Metrics) -> None:
        """Begin to answer."""
        self.card = generator.card
        self._batcher = Batcher(generator, batch_size, metrics.rows.labels(self.name).observe)

    @property
    def is_ready(self) -> bool:
        """Whether it answers."""
        return self._batcher is not None

    def require(self) -> Batcher:
        """Return what takes jobs.

        Raises:
            Refusal: 503 while it loads, or if it could not be loaded.
        """
        if self._batcher is not None:
            return self._batcher
        if self.error is not None:
            raise Refusal(503, "not_loaded", f"{self.name} could not be loaded: {self.error}")
        raise Refusal(
            503, "loading", f"{self.name} is still loading; ask again soon", {"Retry-After": "2"}
        )

    def close(self) -> None:
        """Finish what was taken."""
        if self._batcher is not None:
            self._batcher.close()


class Models:
    """All checkpoints of a service; they load one after the other, in a thread.

    Args:
        names: As `pgvision.runtime.load` takes them; empty: the default one.
        load: Makes an engine of a name.
        batch_size: Prompts that go through an engine together.
        metrics: Where batch sizes are counted.

    Raises:
        CheckpointError: If a name is none.
    """

    def __init__(
        self, names: Sequence[str], load: Load, *, batch_size: int, metrics: Metrics
    ) -> None:
        self.all = [Served(name) for name in dict.fromkeys(names)] or [Served(None)]
        self._load, self._batch_size, self._metrics = load, batch_size, metrics
        self._thread = threading.Thread(target=self._load_all, name="pgvision-load", daemon=True)

    def start(self, on_failure: Callable[[], object]) -> None:
        """Load in the background; ``on_failure`` is called if one cannot be had."""
        self._on_failure = on_failure
        self._thread.start()

    def close(self) -> None:
        """Finish what was taken."""
        for each in self.all:
            each.close()

    @property
    def is_ready(self) -> bool:
        """Whether all answer."""
        return all(each.is_ready for each in self.all)

    def pick(self, name: str | None) -> Served:
        """Find the checkpoint that a request names.

        Raises:
            Refusal: 404 if there is none of the name.
        """
        if name is None:
            return self.all[0]
        for each in self.all:
            if each.name == name:
                return each
        known = ", ".join(each.name for each in self.all)
        raise Refusal(404, "unknown_model", f"model: {name!r} is not served here; it has {known}")

    def _load_all(self) -> None:
        for each in self.all:
            try:
                each.start(self._load(each.name), self._batch_size, self._metrics)
            except PgvisionError as error:
                each.error = error
                _LOG.error("%s could not be loaded: %s", each.name, error)
                self._on_failure()
                return
