"""The process: a socket, the services, and an end in good order."""

from __future__ import annotations

import ipaddress
import logging
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Literal

import structlog
import uvicorn

from mochi.core.errors import OutputError, RequestError, WeightsError
from mochi.serving.app import make_app
from mochi.serving.runner.process import ProcessRunner
from mochi.serving.services import MakeRunner, Services, open_services
from mochi.serving.settings import ServeSettings

_GRACE_SECONDS = 5
_SWITCH_SECONDS = 0.001  # a thread that computes lets one that answers go first; Python has 0.005
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def serve(
    settings: ServeSettings,
    on_listening: Callable[[str], None],
    make_runner: MakeRunner = ProcessRunner,
) -> None:
    """Serve until a signal says to stop; what runs then is finished or handed back.

    Args:
        settings: of the server.
        on_listening: told the server's address when it takes requests.
        make_runner: how runners are made.

    Raises:
        RequestError: a setting is not possible; a public address without a token.
        OutputError: the data folder or the port is taken.
        WeightsError: the models cannot be looked at, and never were.
    """
    log_to_stderr(settings.log_format)
    sys.setswitchinterval(_SWITCH_SECONDS)
    services = open_services(settings, make_runner)
    try:
        check_bind(settings.host, services)
        with _socket(settings.host, settings.port) as listener:
            services.port = listener.getsockname()[1]
            services.start()
            wait_for_models(services)
            on_listening(settings.public_url or _url(settings.host, services.port))
            Server(services).run(sockets=[listener])
    finally:
        services.close()


class Server(uvicorn.Server):
    """uvicorn, told to stop by our handlers: it would raise the signal again at the end."""

    def __init__(self, services: Services):
        config = uvicorn.Config(
            make_app(services),
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=_GRACE_SECONDS,
            proxy_headers=False,
            lifespan="off",
            http="h11",  # httptools, where it is installed, would read headers without end
        )
        super().__init__(config)
        self._services = services

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop at the first signal; the second one does what it did before."""
        try:
            before = {number: signal.signal(number, self._stop) for number in _SIGNALS}
        except ValueError:  # not the main thread: whoever started us stops us
            yield
            return
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self.stop()

    def stop(self) -> None:
        """Take nothing new, end open streams, return from `run`."""
        self._services.stopping.set()
        self.should_exit = True


def check_bind(host: str, services: Services) -> None:
    """Refuse to be reached from elsewhere by everybody.

    Raises:
        RequestError: the address is public, and no token exists.
    """
    if is_loopback(host) or services.tokens.any():
        return
    rule = "can be reached from elsewhere, and no token exists; make one: mochi token create"
    raise RequestError("host", host, rule, "127.0.0.1")


def is_loopback(host: str) -> bool:
    """Whether an address leads to this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def wait_for_models(services: Services) -> None:
    """Wait until something is known of the models: from an earlier run, at once.

    Raises:
        WeightsError: no runner comes up, and none ever did.
    """
    while not services.offers.all():
        states = [runner.state for runner in services.runners]
        if states and all(state.state == "failed" for state in states):
            raise WeightsError(f"no runner comes up: {states[0].reason}")
        time.sleep(0.05)


def log_to_stderr(form: Literal["text", "json"]) -> None:
    """Structured lines on stderr; uvicorn's own warnings go there too."""
    render: structlog.typing.Processor = structlog.processors.JSONRenderer()
    if form == "text":
        render = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            render,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


@contextmanager
def _socket(host: str, port: int) -> Iterator[socket.socket]:
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.create_server(address[:2], family=family, backlog=2048)
    except OSError as error:
        raise OutputError(f"{host}:{port}: cannot listen: {error.strerror or error}") from error
    with listener:
        yield listener


def _url(host: str, port: int) -> str:
    name = "127.0.0.1" if host in ("0.0.0.0", "::", "localhost") else host
    return f"http://[{name}]:{port}" if ":" in name else f"http://{name}:{port}"
