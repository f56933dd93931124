"""Runs the application with uvicorn: loads the models, listens, and on SIGTERM or Ctrl-C finishes running requests."""

from __future__ import annotations

import logging
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from types import FrameType

import uvicorn

from recurlm.errors import InputError
from recurlm.serving.app import create_app
from recurlm.serving.connections import ACCEPTED_AT_ONCE, Bounds, Connection, LogLimit
from recurlm.serving.middleware import Metrics
from recurlm.serving.models import load_models
from recurlm.serving.settings import Settings

BACKLOG = 2048
LOCAL = {"127.0.0.1", "::1", "localhost"}


def serve(settings: Settings) -> None:
    """Serve until a signal; then running requests have `settings.grace` seconds to finish.

    Raises:
        InputError: a bundle cannot be opened, or the address cannot be listened at.
    """
    # Before the models are loaded, which takes longer: a port in use is refused at once.
    listening = _listen(settings)
    with listening:
        metrics = Metrics()
        models = load_models(settings, metrics)
        bounds = Bounds(settings.limits)
        config = uvicorn.Config(
            create_app(settings, models, metrics),
            http=partial(Connection, bounds=bounds),  # type: ignore[arg-type]
            ws="none",
            backlog=ACCEPTED_AT_ONCE,
            log_level="info" if settings.access_log else "warning",
            access_log=settings.access_log,
            # Longer than the 5 s after which common clients give up an idle connection: one that the server ends first
            # may be reset under a request that is on its way.
            timeout_keep_alive=max(5, settings.limits.header_seconds),
            timeout_graceful_shutdown=settings.grace,
            server_header=False,
            lifespan="on",
        )
        for name in ("uvicorn.error", "asyncio"):
            logging.getLogger(name).addFilter(LogLimit())
        server = _Server(config)
        if bounds.most < settings.limits.max_connections:
            sys.stderr.write(f"recurlm: the limit on open files leaves room for {bounds.most} connections\n")
        _announce(settings, listening, list(models))
        with _signals_stop(server):
            server.run(sockets=[listening])
    if not server.started:
        raise RuntimeError("the server did not start")


class _Server(uvicorn.Server):
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        # asyncio accepts as many connections at once as its backlog says. Many more may wait for that.
        for listening in sockets or []:
            listening.listen(BACKLOG)


def _listen(settings: Settings) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family, backlog=BACKLOG)
    except (OSError, UnicodeError) as error:  # UnicodeError: of a host that IDNA cannot encode
        why = getattr(error, "strerror", None) or error
        raise InputError(f"cannot listen at {settings.host}, port {settings.port}: {why}") from None


def _announce(settings: Settings, listening: socket.socket, names: list[str]) -> None:
    host, port = listening.getsockname()[:2]
    if settings.host not in LOCAL and settings.api_key is None:
        sys.stderr.write(f"recurlm: {settings.host} can be reached from other machines, and no API key is set\n")
    shown = f"[{host}]" if ":" in host else host
    sys.stderr.write(f"recurlm: http://{shown}:{port} serves {', '.join(names)}\n")
    sys.stderr.flush()


@contextmanager
def _signals_stop(server: uvicorn.Server) -> Iterator[None]:
    """Let SIGTERM and SIGINT only ask the server to stop.

    After its shutdown uvicorn raises the signal again for the previous handlers, and Python's own would end the program
    with an error.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        server.should_exit = True

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
