"""Settings of the service, checked before anything starts. No FastAPI here."""

import ipaddress
import re
from dataclasses import dataclass
from typing import Annotated
from urllib.parse import urlsplit

from pgvision.errors import Count, OptionError, Range, check_options
from pgvision.files import user_path
from pgvision.http import parse_host

_KEY = re.compile(r"[!-~](?:[ -~]*[!-~])?")
_ORIGIN = re.compile(r"https?://(?:[^\W_A-Z]|[.-])+(?::\d+)?|https?://\[[0-9a-f:]+\](?::\d+)?")
_NAMED = re.compile(r"([\w.-]+)=(.+)", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class ServeSettings:
    """Address, models and limits of a service.

    Attributes:
        host: Address to listen on; "127.0.0.1" is this machine only, 0.0.0.0 the whole network.
        port: 0 takes a free one.
        models: Checkpoints as `pgvision.runtime.load` takes them, or ``name=checkpoint``. Requests
            use the names; a folder's name is that of its last part. The first model is the default.
        device: cpu, cuda, cuda:1 or mps; by default the best one.
        dtype: float32, bfloat16 or float16; by default what suits the device.
        threads: CPU threads of the model.
        batch_size: Prompts that go through a model together.
        api_key: Key that requests must send; better in the environment, where ps does not show it.
        no_key: Serve an address that others can reach without a key.
        allow_hosts: Fetch images by address from these hosts (``name`` means ports 80 and 443,
            ``name:port`` that port only).
        allow_origins: Web origins (``https://app.example.org``) that may call the service.
        queue: Requests in progress at once; more are answered 429.
        deadline: Seconds from a request's first byte to its answer; later it is answered 504.
        max_mb: Largest body of a request, in millions of bytes; at most eight such are in memory.
        max_megapixels: Largest image, by its header; of all requests twice as many pixels are
            decoded at one time.
        max_prompts: Prompts of one request: classes times tiles.
        max_images: Images, or Label Studio tasks, of one request.

    Raises:
        OptionError: If a value is outside its range, or others could use the service without a key.

    Example:
        >>> ServeSettings(port=0).is_local
        True
    """

    host: str = "127.0.0.1"
    port: Annotated[int, Range(0, 65535)] = 8000
    models: tuple[str, ...] = ()
    device: str | None = None
    dtype: str | None = None
    threads: Count | None = None
    batch_size: Count = 16
    api_key: str | None = None
    no_key: bool = False
    allow_hosts: tuple[str, ...] = ()
    allow_origins: tuple[str, ...] = ()
    queue: Count = 64
    deadline: Annotated[float, Range(0.1, 86_400)] = 30.0
    max_mb: Annotated[float, Range(0.001, 1e6)] = 32.0
    max_megapixels: Annotated[float, Range(0.001, 1e6)] = 50.0
    max_prompts: Count = 64
    max_images: Count = 64

    def __post_init__(self) -> None:
        """Check the values."""
        # 1. Types and ranges; the lists are checked below.
        single = {name: value for name, value in vars(self).items() if not _is_list(value)}
        check_options(single, ServeSettings, "ServeSettings")
        if self.api_key is not None and not _KEY.fullmatch(self.api_key):
            # HTTP headers contain nothing else, so no request could send it.
            raise OptionError("api_key: expected ASCII characters without blanks around them")
        # 2. A service that other machines can reach needs a key, or an explicit --no-key.
        if not self.is_local and self.api_key is None and not self.no_key:
            raise OptionError(
                f"host: {self.host} can be reached by others, and there is no key. Set --api-key "
                "(PGVISION_API_KEY), or allow it with --no-key (PGVISION_NO_KEY=1)"
            )
        _ = self.host_rules, self.named_models  # checked here
        # 3. Origins are compared as text, so a path or a slash would never match.
        for origin in self.allow_origins:
            if not _ORIGIN.fullmatch(origin):
                raise OptionError(
                    f"allow_origin: expected scheme and host in small letters, such as "
                    f"https://app.example.org, got {origin!r}"
                )

    @property
    def max_bytes(self) -> int:
        """Bytes of the largest body."""
        return int(self.max_mb * 1e6)

    @property
    def max_pixels(self) -> int:
        """Pixels of the largest image."""
        return int(self.max_megapixels * 1e6)

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach the service."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def host_rules(self) -> tuple[tuple[str, int | None], ...]:
        """``allow_hosts`` as `pgvision.http.HttpPolicy` takes them."""
        rules = []
        for text in self.allow_hosts:
            try:
                rules.append(parse_host(text))
            except ValueError as error:
                raise OptionError(
                    f"allow_host: expected a host such as studio.example.org or localhost:8080, "
                    f"got {text!r}"
                ) from error
        return tuple(rules)

    @property
    def named_models(self) -> dict[str, str]:
        """Checkpoints by the names that requests use; paths are not published."""
        named: dict[str, str] = {}
        for text in self.models:
            match = _NAMED.fullmatch(text)
            name, checkpoint = (match[1], match[2]) if match else (_public_name(text), text)
            if named.get(name, checkpoint) != checkpoint:
                raise OptionError(
                    f"model: two checkpoints are named {name!r}; name one with NAME={checkpoint}"
                )
            named[name] = checkpoint
        return named


def _is_list(value: object) -> bool:
    return isinstance(value, list | tuple)


def _public_name(checkpoint: str) -> str:
    if "://" in checkpoint:
        parts = urlsplit(checkpoint)
        return parts.fragment or parts.hostname or "remote"
    path = user_path(checkpoint)
    if path.is_dir() or checkpoint.startswith(("/", ".", "~")):
        return path.resolve().name or "model"
    return checkpoint
