"""Runs the service until it is told to stop."""

import logging
import socket
from contextlib import suppress

import uvicorn

from pgvision.errors import OptionError
from pgvision.server.app import create_app
from pgvision.server.settings import ServeSettings

_LOG = logging.getLogger(__name__)
_BACKLOG = 2048


def serve(settings: ServeSettings) -> None:
    """Listen until Ctrl-C or SIGTERM; what was taken by then is finished.

    Args:
        settings: Where, what, and how much.

    Raises:
        OptionError: If the address cannot be listened at.
        CheckpointError: If a model cannot be loaded.
    """
    app = create_app(settings, on_failure=lambda: setattr(server, "should_exit", True))
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        backlog=_BACKLOG,
        timeout_graceful_shutdown=int(settings.deadline) + 5,
    )
    server = uvicorn.Server(config)
    with _listening(settings) as listener:
        host, port = listener.getsockname()[:2]
        _LOG.info("listening at http://%s:%d (the page is at /); Ctrl-C ends", host, port)
        if settings.api_key is None and not settings.is_local:
            _LOG.warning("%s can be reached by others, and no --api-key is wanted", host)
        with suppress(KeyboardInterrupt):  # uvicorn hands it on once all is finished
            server.run(sockets=[listener])
    for each in app.state.service.models.all:
        if each.error is not None:
            raise each.error


def _listening(settings: ServeSettings) -> socket.socket:
    try:
        where = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0]
        listener = socket.create_server(where[4][:2], family=where[0], backlog=_BACKLOG)
    except OSError as error:
        raise OptionError(
            f"host, port: cannot listen at {settings.host}:{settings.port}: {error}; name another "
            "--port"
        ) from error
    return listener
