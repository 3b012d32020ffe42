"""The relay over HTTP, read-only, for monitoring: metrics, health, the JSON of `show`, and a page for people.

Connections and the time of each are bounded, so that no client slows the relay. One text of metrics is made at a time,
by a thread beside the event loop, from a frozen value.
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from aiohttp import web

from mcrelay.control.metrics import exposition
from mcrelay.relay import views

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aiohttp.web_protocol import RequestHandler

    from mcrelay.relay.state import DaemonState, RelayState

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

T = TypeVar("T")

log = logging.getLogger(__name__)

CONNECTIONS_MAX = 64
CONNECTION_SECONDS = 60.0  # seconds after which every connection ends: a scraper makes another
ANSWER_SECONDS = 10.0  # seconds for a client to take its answer
RETRY_SECONDS = 60.0  # seconds until an address that cannot be bound is tried again
SWEEP_SECONDS = 5.0
PAGE = Path(__file__).parent / "page"
FILES = {
    "/": ("index.html", "text/html"),
    "/page.js": ("page.js", "text/javascript"),
    "/page.css": ("page.css", "text/css"),
}
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self';"
        " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class Relay(Protocol):
    """The questions to the daemon."""

    ready: bool  # every rule is active, pending or in error

    async def state(self, *, links: bool = False) -> RelayState:
        """The state of the relay; with *links* it is up to date for links that no rule names too."""

    def daemon(self) -> DaemonState:
        """Facts about the process."""


class WebServer:
    """Serves one address (``metrics`` in the configuration) as long as it is open. Main thread."""

    def __init__(self, address: str, relay: Relay) -> None:
        host, _, port = address.rpartition(":")
        self._address = address
        self._where = (host.strip("[]"), int(port))
        self._relay = relay
        self._page = {path: (PAGE / name).read_bytes() for path, (name, _) in FILES.items()}
        self._maker = ThreadPoolExecutor(1, "mcrelay-web")  # one text at a time
        self._socket: socket.socket | None = None
        self._since: dict[RequestHandler, float] = {}  # monotonic seconds
        self._trouble = ""

    def bind(self) -> None:
        """Bind the address now, while the process may have the privilege. An error is logged by ``serve``."""
        family = socket.AF_INET6 if ":" in self._where[0] else socket.AF_INET
        made = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.bind(self._where)
            made.listen(CONNECTIONS_MAX)
        except OSError as error:
            made.close()
            if (trouble := error.strerror or str(error)) != self._trouble:
                log.warning(
                    "cannot serve metrics=%s: %s; set relay.metrics to an address and port that are free here,"
                    " or see who listens there: ss -tlnp",
                    self._address,
                    trouble,
                )
            self._trouble = trouble
        else:
            self._socket, self._trouble = made, ""

    async def run(self) -> None:
        """Serve until cancelled. An address that cannot be bound is tried again each minute."""
        while self._socket is None:
            self.bind()
            if self._socket is None:
                await asyncio.sleep(RETRY_SECONDS)
        app = web.Application(middlewares=[self._bounded])
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/healthz", _alive)
        app.router.add_get("/readyz", self._ready)
        app.router.add_get("/api/v1/{noun}", self._noun)
        for path in FILES:
            app.router.add_get(path, self._file)
        runner = web.AppRunner(app, access_log=None, handle_signals=False)
        await runner.setup()
        http = runner.server
        if http is None:
            raise RuntimeError("the server was not made")
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: self._connection(http), sock=self._socket)
        log.info("serves metrics=%s", self._address)
        try:
            while True:
                await asyncio.sleep(SWEEP_SECONDS)
                self._sweep(http)
        finally:
            server.close()
            for handler in http.connections:
                handler.force_close()
            await runner.cleanup()
            self._maker.shutdown(wait=False, cancel_futures=True)

    def _connection(self, http: web.Server) -> RequestHandler:
        """The protocol of a new connection. If there are too many, the oldest is closed once this one is made."""
        loop = asyncio.get_running_loop()
        loop.call_soon(loop.call_soon, self._sweep, http)  # asyncio makes the connection in between
        return http()

    def _sweep(self, http: web.Server) -> None:
        """Close connections whose time is over, those of silent or slow clients, and those beyond the limit."""
        now = time.monotonic()
        self._since = {handler: self._since.get(handler, now) for handler in http.connections}
        open_ = [each for each in self._since.items() if (held := each[0].transport) and not held.is_closing()]
        for number, (handler, since) in enumerate(open_):
            if handler.transport and (number < len(open_) - CONNECTIONS_MAX or now - since > CONNECTION_SECONDS):
                handler.transport.abort()

    @web.middleware
    async def _bounded(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Answer, and cut off a client that does not read the answer."""
        try:
            response = await handler(request)
        except web.HTTPException as error:
            response = web.Response(status=error.status, text=f"{error.status}: {error.reason}\n")
        response.headers.update(HEADERS)
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                await response.prepare(request)
                await response.write_eof()
        except TimeoutError:
            if request.transport is not None:
                request.transport.abort()
        return response

    async def _metrics(self, request: web.Request) -> web.Response:
        relay, accept = await self._relay.state(), request.headers.get("Accept", "")
        text, content_type = await self._make(exposition, relay, self._relay.daemon(), accept)
        return web.Response(body=text, headers={"Content-Type": content_type})

    async def _ready(self, _: web.Request) -> web.Response:
        if not self._relay.ready:
            raise web.HTTPServiceUnavailable
        return web.Response(text="ready\n")

    async def _file(self, request: web.Request) -> web.Response:
        return web.Response(body=self._page[request.path], content_type=FILES[request.path][1], charset="utf-8")

    async def _noun(self, request: web.Request) -> web.Response:
        noun = request.match_info["noun"]
        if noun not in views.NOUNS:
            raise web.HTTPNotFound
        relay = await self._relay.state(links=noun == "links")
        text = await self._make(lambda: json.dumps(views.NOUNS[noun](relay)))
        return web.Response(text=text + "\n", content_type="application/json")

    async def _make(self, make: Callable[..., T], *arguments: object) -> T:
        """Make a text in the thread. If the host has no thread left, tell the client."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._maker, make, *arguments)
        except RuntimeError as error:
            raise web.HTTPServiceUnavailable(reason=str(error)) from None


async def _alive(_: web.Request) -> web.Response:
    """Say that the relay lives: the event loop of the reconcile loop answers, and the process ends with a worker."""
    return web.Response(text="ok\n")
