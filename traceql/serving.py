"""Hand one file to the Perfetto UI: it fetches only from 127.0.0.1:9001, and only with the right CORS header."""

from __future__ import annotations

import secrets
import socket
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Timer
from typing import Any

from traceql.errors import UsageError

PERFETTO = "https://ui.perfetto.dev"
PORT = 9001
"""The one local port Perfetto's content security policy lets it fetch from."""

_PATIENCE_S = 10.0
"""A client that connects and says nothing is left after so long: requests are answered one at a time."""
_REQUEST = 6
"""Patiences that one request may take in all: one that sends a byte now and then holds up the next as well."""


class _Server(HTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away in the middle of an answer is nothing to tell; the next one is waited for."""


class CutServer:
    """Serves one gzip file on the loopback interface under a path nobody can guess, to the Perfetto UI alone.

    ``link`` opens it there. UsageError when the port is taken.
    """

    def __init__(
        self,
        content: bytes,
        *,
        visible_ns: tuple[int, int] | None = None,
        port: int = PORT,
        patience_s: float = _PATIENCE_S,
    ):
        self.content = content
        self.path = f"/{secrets.token_urlsafe(16)}/cut.json.gz"
        self.served = 0
        try:
            self._server = _Server(("127.0.0.1", port), self._handler(patience_s))
        except OSError as error:
            raise UsageError(
                f"port {port} on 127.0.0.1 is taken ({error.strerror}); end what uses it: Perfetto fetches from no other"
            ) from error
        self.port = self._server.server_address[1]
        shown = "" if visible_ns is None else f"&visStart={visible_ns[0]}&visEnd={visible_ns[1]}"
        self.link = f"{PERFETTO}/#!/?url=http://127.0.0.1:{self.port}{self.path}{shown}"

    def serve_once(self, timeout_s: float | None = None) -> bool:
        """Wait until the file was fetched once; False when nobody came in time."""
        self._server.timeout = timeout_s
        before = self.served
        while self.served == before:
            answered = self.served, self._requests
            self._server.handle_request()
            if timeout_s is not None and (self.served, self._requests) == answered:
                return False
        return True

    _requests = 0

    def close(self) -> None:
        self._server.server_close()

    def _handler(self, patience_s: float) -> type[BaseHTTPRequestHandler]:
        owner = self

        class Handler(BaseHTTPRequestHandler):
            timeout = patience_s

            def setup(self) -> None:
                super().setup()
                self._deadline = Timer(_REQUEST * patience_s, self._end)
                self._deadline.daemon = True
                self._deadline.start()

            def finish(self) -> None:
                self._deadline.cancel()
                super().finish()

            def _end(self) -> None:
                with suppress(OSError):  # it ended by itself
                    self.connection.shutdown(socket.SHUT_RDWR)

            def do_GET(self) -> None:
                if not self._known():
                    return
                self.send_response(200)
                self.send_header("Access-Control-Allow-Origin", PERFETTO)
                self.send_header("Content-Type", "application/gzip")
                self.send_header("Content-Length", str(len(owner.content)))
                self.send_header("Cache-Control", "no-store")
                self.end_headers()
                self.wfile.write(owner.content)
                owner.served += 1

            def do_OPTIONS(self) -> None:
                """A browser that asks first whether a public page may fetch from this machine."""
                if not self._known():
                    return
                self.send_response(204)
                self.send_header("Access-Control-Allow-Origin", PERFETTO)
                self.send_header("Access-Control-Allow-Private-Network", "true")
                self.end_headers()

            def _known(self) -> bool:
                owner._requests += 1
                if self.path == owner.path:
                    return True
                self.send_error(404)
                return False

            def log_message(self, format: str, *args: Any) -> None:
                """Requests are nobody's business."""

        return Handler
