"""What a service may be told, checked before anything starts."""

import ipaddress
import re
from dataclasses import dataclass

from pgvision.errors import OptionError

_HOST = re.compile(r"[\w.-]+(:\d{1,5})?|\[[0-9a-fA-F:]+\](:\d{1,5})?")


@dataclass(frozen=True, kw_only=True)
class ServeSettings:
    """Where a service listens, what it loads, and how much it takes on.

    Attributes:
        host: Address to listen at; "127.0.0.1" is this machine alone.
        port: 0 takes a free one.
        models: Checkpoints, each as `pgvision.runtime.load` names them; the first answers where a
            request names none. Empty: the default one.
        device, dtype, threads: See `pgvision.runtime.load`.
        batch_size: Prompts that go through a model together.
        api_key: What callers must send; None: nothing.
        allow_hosts: Hosts (``name`` or ``name:port``) from which pictures may be fetched.
        queue: Requests that may be inside at once; one more is answered 429.
        deadline: Seconds that a request may take, from its first byte to its answer.
        max_bytes: Largest body.
        max_pixels: Largest picture, by its header.
        max_prompts: Most prompts that one request may put (classes times tiles).

    Raises:
        OptionError: If one is outside what it may be.

    Example:
        >>> ServeSettings(port=0).is_local
        True
    """

    host: str = "127.0.0.1"
    port: int = 8000
    models: tuple[str, ...] = ()
    device: str | None = None
    dtype: str | None = None
    threads: int | None = None
    batch_size: int = 16
    api_key: str | None = None
    allow_hosts: tuple[str, ...] = ()
    queue: int = 64
    deadline: float = 30.0
    max_bytes: int = 32 * 2**20
    max_pixels: int = 50_000_000
    max_prompts: int = 64

    def __post_init__(self) -> None:
        """Check the values."""
        if not 0 <= self.port <= 65535:
            raise OptionError(f"port: expected 0 to 65535, got {self.port}")
        for name in ("batch_size", "queue", "max_bytes", "max_pixels", "max_prompts"):
            if getattr(self, name) < 1:
                raise OptionError(f"{name}: expected at least 1, got {getattr(self, name)}")
        if not self.deadline > 0:
            raise OptionError(f"deadline: expected seconds above 0, got {self.deadline}")
        if self.api_key is not None and not self.api_key.strip():
            raise OptionError("api_key: expected a word, got an empty one; leave it out for none")
        for host in self.allow_hosts:
            if not _HOST.fullmatch(host):
                raise OptionError(
                    f"allow_host: expected a host such as studio.example.org or localhost:8080, "
                    f"got {host!r}"
                )

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach the service."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False
