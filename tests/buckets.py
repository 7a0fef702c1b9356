"""An S3 server on this machine, and a proxy before it that answers wrongly where a test asks for it."""

import http.client
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from distill_mtl import remote_files

Fault = Callable[[BaseHTTPRequestHandler, bytes], bool]
"""Answers a request in place of the server, whose body it gets; False: it does not."""


class Bucket:
    """A bucket that `s3://pets` names while the fixture lives.

    Attributes:
        url: of the bucket.
        requests: "GET /pets/a.tar" of every request that came.
        fault: what answers in place of the server.
    """

    url = "s3://pets"

    def __init__(self, port: int) -> None:
        self._server = port
        self.requests: list[str] = []
        self.fault: Fault | None = None
        self.delay = 0.0
        bucket = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _any(self) -> None:
                bucket.answer(self)

            do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _any  # noqa: N815

            def log_message(self, *args: Any) -> None:
                pass

        self._proxy = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._proxy.daemon_threads = True
        self.port = self._proxy.server_port
        threading.Thread(target=self._proxy.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._proxy.shutdown()
        self._proxy.server_close()

    def put(self, name: str, content: bytes | Path) -> str:
        """Write an object, past the faults; its URL."""
        fault, self.fault = self.fault, None
        system, path = remote_files.open_system(f"{self.url}/{name}", "test")
        system.pipe_file(path, content if isinstance(content, bytes) else content.read_bytes())
        self.fault = fault
        return f"{self.url}/{name}"

    def put_folder(self, folder: Path, below: str = "") -> None:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                self.put(below + path.relative_to(folder).as_posix(), path)

    def names(self, below: str = "") -> list[str]:
        return sorted(name for name in remote_files.list_folder(f"{self.url}/{below}".rstrip("/"), "test"))

    def _ask(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> tuple[Any, bytes]:
        server = http.client.HTTPConnection("127.0.0.1", self._server, timeout=60)
        server.request(method, path, body, headers)
        answer = server.getresponse()
        content = answer.read()
        server.close()
        return answer, content

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        self.requests.append(f"{request.command} {request.path}")
        time.sleep(self.delay)
        if request.command == "PUT" and self.fault is not None and self.fault(request, b""):
            return
        if "100-continue" in request.headers.get("Expect", ""):
            request.headers.replace_header("Expect", "")
        answer, content = self._ask(request.command, request.path, body, dict(request.headers))
        if request.command != "PUT" and self.fault is not None and self.fault(request, content):
            return
        request.send_response(answer.status)
        skipped = ("transfer-encoding", "connection", "content-length", "date", "server")
        for name, value in answer.getheaders():
            if name.lower() not in skipped:
                request.send_header(name, value)
        length = answer.getheader("Content-Length") if request.command == "HEAD" else str(len(content))
        request.send_header("Content-Length", length or "0")
        request.end_headers()
        request.wfile.write(content)


@contextmanager
def running_bucket() -> Iterator[Bucket]:
    """The server, the proxy, and the environment that leads clients to it."""
    moto = pytest.importorskip("moto.server")
    s3fs = pytest.importorskip("s3fs")
    s3fs.S3FileSystem.clear_instance_cache()  # whose clients know another server
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = moto.ThreadedMotoServer(port=0, verbose=False)
    server.start()
    bucket = Bucket(server.get_host_and_port()[1])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{bucket.port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setattr(remote_files, "WAITS", (0.01, 0.02, 0.05))
        bucket._ask("POST", "/moto-api/reset", b"", {})  # moto's servers of one process share what they hold
        bucket._ask("PUT", "/pets", b"", {})
        yield bucket
    bucket.close()
    server.stop()


@contextmanager
def web_server(folder: Path) -> Iterator[str]:
    """The URL of a plain web server for a folder: no ETags, no ranges, no listing that tells sizes."""
    pytest.importorskip("aiohttp")

    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args, directory=str(folder))

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def failing(status: int, times: int, naming: str = "", method: str = "") -> Fault:
    """Some answers are errors of the server."""
    left = [times]

    def fault(request: BaseHTTPRequestHandler, content: bytes) -> bool:
        if naming not in request.path or method not in request.command or left[0] <= 0:
            return False
        left[0] -= 1
        request.send_response(status)
        request.send_header("Content-Length", "0")
        request.end_headers()
        return True

    return fault


def silent(times: int, naming: str, seconds: float) -> Fault:
    """Some answers do not come for a while."""
    left = [times]

    def fault(request: BaseHTTPRequestHandler, content: bytes) -> bool:
        if request.command == "GET" and naming in request.path and left[0] > 0:
            left[0] -= 1
            time.sleep(seconds)
        return False

    return fault


def cutting(times: int, naming: str) -> Fault:
    """Some bodies end in the middle, and the connection with them."""
    left = [times]

    def fault(request: BaseHTTPRequestHandler, content: bytes) -> bool:
        if request.command != "GET" or naming not in request.path or left[0] <= 0 or len(content) < 2:
            return False
        left[0] -= 1
        request.send_response(200)
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        request.wfile.write(content[: len(content) // 2])
        request.close_connection = True
        return True

    return fault
