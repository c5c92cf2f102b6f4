"""As much of the hub's interface as reading a dataset takes, over a folder: no network needed."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@contextmanager
def hub(name: str, folder: Path) -> Iterator[str]:
    """Serves one dataset repository with one commit; gives the endpoint's address."""
    handler = type("Handler", (_Handler,), {"repository": name, "folder": folder})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    repository: str
    folder: Path

    def do_GET(self) -> None:
        sent = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = unquote(urlsplit(self.path).path)
        if match := re.fullmatch(rf"/api/datasets/{self.repository}(?:/(\S*))?", path):
            self._answer_about_repository(match[1] or "", sent)
        # Nothing by the branch's name, which could move while a dataset is read.
        elif match := re.fullmatch(rf"/datasets/{self.repository}/resolve/{COMMIT}/(\S+)", path):
            self._send_file(self.folder / match[1])
        else:
            self._send({}, 404, {"X-Error-Code": "RepoNotFound"})

    do_HEAD = do_POST = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _answer_about_repository(self, what: str, sent: bytes) -> None:
        names = sorted(p.relative_to(self.folder).as_posix() for p in self.folder.rglob("*.*"))
        if what == "" or what in (f"revision/{COMMIT}", "revision/main"):
            siblings = [{"rfilename": name} for name in names]
            self._send({"id": self.repository, "sha": COMMIT, "siblings": siblings})
        elif what.startswith("tree/"):
            self._send([self._entry(name) for name in names])
        elif what.startswith("paths-info/"):
            asked = parse_qs(sent.decode())["paths"]
            self._send([self._entry(name) for name in asked if name in names])
        else:
            self._send({}, 404, {"X-Error-Code": "RevisionNotFound"})

    def _entry(self, name: str) -> dict[str, Any]:
        data = (self.folder / name).read_bytes()
        return {
            "type": "file",
            "path": name,
            "size": len(data),
            "oid": hashlib.sha1(data).hexdigest(),
        }

    def _send_file(self, path: Path) -> None:
        if not path.is_file():
            self._send({}, 404, {"X-Error-Code": "EntryNotFound"})
            return
        data = path.read_bytes()
        headers = {
            "ETag": f'"{hashlib.sha1(data).hexdigest()}"',
            "X-Repo-Commit": COMMIT,
            "Accept-Ranges": "bytes",
        }
        code = 200
        if match := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or ""):
            first, last = int(match[1]), min(int(match[2] or len(data)), len(data) - 1)
            headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
            data, code = data[first : last + 1], 206
        self._send(data, code, headers)

    def _send(self, body: Any, code: int = 200, headers: dict[str, str] | None = None) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(code)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)
