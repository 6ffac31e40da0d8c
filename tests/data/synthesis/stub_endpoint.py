"""An OpenAI-compatible server on a local port whose replies a test scripts."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Stub:
    """``answer(prompt, body, number)`` gives the text of a reply, or (status, headers, raw body)."""

    def __init__(self, answer: Callable[[str, dict[str, Any], int], Any]) -> None:
        self.answer, self.bodies, self.headers, self.lock = answer, [], [], threading.Lock()
        self.open, self.most_open = 0, 0
        self.url = ""


@contextmanager
def serving(answer: Callable[[str, dict[str, Any], int], Any]) -> Iterator[Stub]:
    """A running stub."""
    stub = Stub(answer)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:  # noqa: N802
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with stub.lock:
                stub.bodies.append(body)
                stub.headers.append(dict(self.headers))
                number = len(stub.bodies)
                stub.open += 1
                stub.most_open = max(stub.most_open, stub.open)
            reply = stub.answer(body["messages"][-1]["content"], body, number)
            with stub.lock:
                stub.open -= 1
            status, headers, raw = (200, {}, completion(reply)) if isinstance(reply, str) else reply
            try:
                self.send_response(status)
                for key, value in headers.items():
                    self.send_header(key, value)
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)
            except (BrokenPipeError, ConnectionResetError):
                pass  # the client gave up waiting

        def log_message(self, *args: Any) -> None:
            """Silence."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    stub.url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield stub
    finally:
        server.shutdown()
        server.server_close()


def completion(text: str, tokens: int = 10) -> bytes:
    """A chat completion of the wire."""
    choice = {"message": {"role": "assistant", "content": text}}
    return json.dumps({"choices": [choice], "usage": {"total_tokens": tokens}}).encode()


def slow(seconds: float, text: str) -> str:
    """A reply after a while."""
    time.sleep(seconds)
    return text
