"""Counts for Prometheus, each service with a registry of its own."""

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_ROWS = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """What a service counts.

    Example:
        >>> metrics = Metrics()
        >>> metrics.requests.labels("/v1/detect", "200").inc()
        >>> b'pgvision_requests_total{route="/v1/detect",status="200"} 1.0' in metrics.text()
        True
    """

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.requests = Counter(
            "pgvision_requests", "Requests answered.", ["route", "status"], registry=registry
        )
        self.seconds = Histogram(
            "pgvision_request_seconds",
            "From the first byte to the answer.",
            ["route"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.inside = Gauge("pgvision_requests_inside", "Being read or waiting.", registry=registry)
        self.rows = Histogram(
            "pgvision_rows_together",
            "Prompts in the model with each one that ends.",
            ["model"],
            buckets=_ROWS,
            registry=registry,
        )
        self.late = Counter(
            "pgvision_deadlines_passed", "Requests that were answered 504.", registry=registry
        )

    def text(self) -> bytes:
        """Return all counts in Prometheus's text form."""
        return generate_latest(self._registry)
