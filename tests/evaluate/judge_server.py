"""A real HTTP server with the form of OpenAI's chat completions, and the faults that servers have."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SLOW_SECONDS = 1.0


class JudgeServer:
    """A server on a free port of this machine.

    Args:
        judge: What it says of the answers A and B.
        faults: What it does instead, one for each of the first requests: a status, ``"slow"``,
            ``"no JSON"``, ``"no choices"`` or ``"hang up"``; None for nothing.
    """

    def __init__(self, judge: Callable[[str, str], str], faults: list[Any] | None = None) -> None:
        self.judge = judge
        self.faults = list(faults or [])
        self.requests: list[dict[str, Any]] = []
        """Bodies, with the path and the headers beside them."""
        server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        server.daemon_threads = True
        self.server = server
        self.url = f"http://127.0.0.1:{server.server_port}/v1"

    def _handler(outer: JudgeServer) -> type[BaseHTTPRequestHandler]:  # noqa: N805
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.requests.append({**body, "path": self.path, "headers": self.headers})
                outer.answer(self, body, outer.faults.pop(0) if outer.faults else None)

            def log_message(self, *_: Any) -> None:
                pass

        return Handler

    def answer(self, to: BaseHTTPRequestHandler, body: dict[str, Any], fault: Any) -> None:
        if fault == "hang up":
            to.close_connection = True
            return
        if fault == "slow":
            time.sleep(SLOW_SECONDS)
        status = fault if isinstance(fault, int) else 200
        question = body["messages"][-1]["content"]
        first, second = (
            re.search(rf"<answer {name}>\n(.*?)\n</answer {name}>", question, re.DOTALL)[1]  # type: ignore[index]
            for name in "AB"
        )
        message = {"role": "assistant", "content": self.judge(first, second)}
        text = json.dumps({"choices": [{"index": 0, "message": message}]})
        if fault == "no JSON":
            text = "<html>nothing here</html>"
        elif fault == "no choices" or status != 200:
            text = json.dumps({"error": {"message": f"fault {fault}"}})
        to.send_response(status)
        if status == 429:
            to.send_header("Retry-After", "0")
        if status == 307:
            to.send_header("Location", f"{self.url}/elsewhere")
        to.send_header("Content-Length", str(len(text.encode())))
        to.end_headers()
        try:
            to.wfile.write(text.encode())
        except BrokenPipeError:
            assert fault == "slow"  # the client has given up


@contextmanager
def running(
    judge: Callable[[str, str], str], faults: list[Any] | None = None
) -> Iterator[JudgeServer]:
    """The server, in a thread."""
    server = JudgeServer(judge, faults)
    thread = threading.Thread(target=server.server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.server.shutdown()
        server.server.server_close()
        thread.join()
