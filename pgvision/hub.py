"""Hub access with a fast failure: offline machines get an error within two seconds.

Left to itself huggingface_hub tries five times, for half a minute, and writes a line for each.
"""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit
from urllib.request import getproxies

_PATIENCE: Final = 1.5  # seconds


@contextmanager
def hub_if_it_answers() -> Iterator[None]:
    """Use only the cache while the hub does not answer."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE or _answers(constants.ENDPOINT):
        yield
        return
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = False


def fetch_file(repository: str, name: str, revision: str | None) -> Path | None:
    """Fetch one file of a repository, or find it in the cache.

    Returns:
        Its path; None where the repository (or, without network, the cache) has none of the name.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    try:
        return Path(hf_hub_download(repository, name, revision=revision))
    except EntryNotFoundError:
        return None


def _answers(endpoint: str) -> bool:
    if getproxies().keys() - {"no"}:  # NO_PROXY alone is none
        return True  # the proxy knows the way; knocking at the hub itself would prove nothing
    parts = urlsplit(endpoint)
    port = parts.port or (80 if parts.scheme == "http" else 443)
    opened = threading.Event()

    def knock() -> None:
        with suppress(OSError):
            socket.create_connection((parts.hostname or "", port), _PATIENCE).close()
            opened.set()

    # In a thread: a DNS look-up has no time-out.
    caller = threading.Thread(target=knock, daemon=True)
    caller.start()
    caller.join(_PATIENCE)
    return opened.is_set()
