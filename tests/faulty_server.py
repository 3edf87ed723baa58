"""A local web server with faults named in its paths: `/status:500,cut:700,right` has one fault per request."""

from __future__ import annotations

import gzip
import re
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Fault = Callable[["Answer", str], None]

FAULTS: dict[str, Fault] = {}
"""Faults by their name in a path; a fault may take one argument after a colon."""

LONG = 5.0
"""Seconds until a silent server hangs up: a client that waited for it would report another reason."""


class FaultyServer(ThreadingHTTPServer):
    """A web server that serves one file.

    Attributes:
        requests: Fault and Range header of every request, in order.
        gate: Requests that wait at the gate continue when it is set.
        closing: Ends all waiting requests.
    """

    daemon_threads = False

    def __init__(self, content: bytes):
        super().__init__(("127.0.0.1", 0), Answer)
        self.content = content
        self.requests: list[tuple[str, str | None]] = []
        self.gate = threading.Event()
        self.closing = threading.Event()
        self.lock = threading.Lock()
        self.request_counts: dict[str, int] = {}
        self.bugs: list[BaseException | None] = []

    def url(self, *faults: str) -> str:
        """The address of the file with these faults, one per request. Further requests repeat the last fault."""
        return f"http://127.0.0.1:{self.server_port}/{','.join(faults)}"

    def ranges(self) -> list[str | None]:
        return [range_header for _, range_header in self.requests]

    def fault_of(self, path: str, range_header: str | None) -> tuple[str, str]:
        with self.lock:
            faults = path.strip("/").split(",")
            earlier = self.request_counts.get(path, 0)
            self.request_counts[path] = earlier + 1
            fault = faults[min(earlier, len(faults) - 1)]
            self.requests.append((fault, range_header))
        name, _, argument = fault.partition(":")
        return name, argument

    def shutdown_request(self, request: socket.socket) -> None:  # type: ignore[override]
        lingers, _ = struct.unpack("ii", request.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8))
        if lingers:
            request.close()  # without shutdown, which would send FIN
        else:
            super().shutdown_request(request)

    def handle_error(self, request: object, client_address: object) -> None:
        error = sys.exception()
        if not isinstance(error, ConnectionError):  # not caused by a client that disconnected
            self.bugs.append(error)


@contextmanager
def serving(content: bytes) -> Iterator[FaultyServer]:
    server = FaultyServer(content)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.closing.set()
        server.gate.set()
        server.shutdown()
        thread.join()
        server.server_close()
    assert server.bugs == []


class Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FaultyServer

    def do_GET(self) -> None:
        self.close_connection = True
        range_header = self.headers["Range"]
        name, argument = self.server.fault_of(self.path, range_header)
        self.start = int(re.fullmatch(r"bytes=(\d+)-", range_header)[1]) if range_header else 0  # type: ignore[index]
        FAULTS[name](self, argument)

    def head(self, status: int, **headers: object) -> None:
        self.send_response_only(status)
        self.send_header("Connection", "close")
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()

    def begin(self, content: bytes, **headers: object) -> bytes:
        """Send the headers for the file or for the requested rest of it. Returns the body to send."""
        if self.start >= len(content):
            self.head(416, Content_Range=f"bytes */{len(content)}", Content_Length=0)
            return b""
        if self.start:
            headers["Content_Range"] = f"bytes {self.start}-{len(content) - 1}/{len(content)}"
        self.head(206 if self.start else 200, **headers)
        return content[self.start :]

    def begin_sized(self, content: bytes) -> bytes:
        return self.begin(content, Content_Length=len(content) - self.start)

    def log_message(self, format: str, *args: object) -> None:
        pass


def fault(do: Fault) -> Fault:
    FAULTS[do.__name__] = do
    return do


# ------------------------------------------------------------------------------------------------ valid responses


@fault
def right(answer: Answer, _: str) -> None:
    answer.wfile.write(answer.begin_sized(answer.server.content))


@fault
def right_unsized(answer: Answer, _: str) -> None:
    answer.wfile.write(answer.begin(answer.server.content))


@fault
def no_ranges(answer: Answer, _: str) -> None:
    """HTTP does not require servers to support ranges."""
    answer.start = 0
    right(answer, _)


@fault
def gzipped(answer: Answer, _: str) -> None:
    """Compressed although identity was requested; ranges count compressed bytes."""
    body = gzip.compress(answer.server.content)
    start = min(answer.start, 10)
    span = {"Content_Range": f"bytes {answer.start}-{len(answer.server.content) - 1}/*"} if start else {}
    answer.head(206 if start else 200, Content_Encoding="gzip", Content_Length=len(body) - start, **span)
    answer.wfile.write(body[start:])


@fault
def gzipped_if_welcome(answer: Answer, _: str) -> None:
    (gzipped if "gzip" in answer.headers["Accept-Encoding"] else right)(answer, _)


@fault
def redirect(answer: Answer, _: str) -> None:
    answer.head(302, Location="/right", Content_Length=0)


# ------------------------------------------------------------------------------------------------ redirects


@fault
def loop(answer: Answer, _: str) -> None:
    answer.head(302, Location=answer.path, Content_Length=0)


@fault
def redirect_to_file(answer: Answer, _: str) -> None:
    answer.head(302, Location="file:///etc/hostname", Content_Length=0)


@fault
def redirect_to_nonsense(answer: Answer, _: str) -> None:
    answer.head(302, Location="http://[::1", Content_Length=0)


# ------------------------------------------------------------------------------------------------ connection faults


@fault
def cut(answer: Answer, after: str) -> None:
    answer.wfile.write(answer.begin_sized(answer.server.content)[: int(after)])


@fault
def cut_unsized(answer: Answer, after: str) -> None:
    answer.wfile.write(answer.begin(answer.server.content)[: int(after)])


@fault
def cut_chunked(answer: Answer, after: str) -> None:
    body = answer.begin(answer.server.content, Transfer_Encoding="chunked")[: int(after)]
    answer.wfile.write(b"%x\r\n%s\r\n" % (len(body), body))


@fault
def cut_head(answer: Answer, _: str) -> None:
    answer.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Le")


@fault
def hang_up(answer: Answer, _: str) -> None:
    pass


@fault
def reset(answer: Answer, after: str) -> None:
    """Ends with RST instead of FIN, because closing has a linger of 0 seconds."""
    cut(answer, after)
    answer.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@fault
def not_http(answer: Answer, _: str) -> None:
    answer.wfile.write(b"SSH-2.0-OpenSSH_9.6\x1b[31m\r\n")


# ------------------------------------------------------------------------------------------------ timing faults


@fault
def stall(answer: Answer, after: str) -> None:
    cut(answer, after)
    answer.server.closing.wait(LONG)


@fault
def silent(answer: Answer, _: str) -> None:
    answer.server.closing.wait(LONG)


@fault
def gate(answer: Answer, after: str) -> None:
    """Send a part of the body, and the rest after the gate opens."""
    body = answer.begin_sized(answer.server.content)
    answer.wfile.write(body[: int(after)])
    answer.server.gate.wait()
    answer.wfile.write(body[int(after) :])


@fault
def drip(answer: Answer, seconds: str) -> None:
    end = time.monotonic() + LONG
    for byte in answer.begin_sized(answer.server.content):
        answer.wfile.write(bytes([byte]))
        if answer.server.closing.wait(float(seconds)) or time.monotonic() > end:
            return


@fault
def drip_head(answer: Answer, seconds: str) -> None:
    answer.wfile.write(b"HTTP/1.1 200 OK\r\nX-Padding: ")
    end = time.monotonic() + LONG
    while time.monotonic() < end and not answer.server.closing.wait(float(seconds)):
        answer.wfile.write(b"x")


# ------------------------------------------------------------------------------------------------ response faults


@fault
def status(answer: Answer, code: str) -> None:
    answer.head(int(code), Content_Length=0)


@fault
def busy(answer: Answer, seconds: str) -> None:
    answer.head(429, Retry_After=seconds, Content_Length=0)


@fault
def wrong(answer: Answer, _: str) -> None:
    """Send the same number of other bytes."""
    answer.wfile.write(answer.begin_sized(answer.server.content[::-1]))


@fault
def long(answer: Answer, _: str) -> None:
    answer.wfile.write(answer.begin_sized(answer.server.content * 3))


@fault
def long_unsized(answer: Answer, _: str) -> None:
    answer.wfile.write(answer.begin(answer.server.content * 3))


@fault
def short(answer: Answer, _: str) -> None:
    answer.wfile.write(answer.begin_sized(answer.server.content[:-5]))


@fault
def short_unsized(answer: Answer, _: str) -> None:
    answer.wfile.write(answer.begin(answer.server.content[:-5]))


# ------------------------------------------------------------------------------------------------ range faults


@fault
def refuses_ranges(answer: Answer, _: str) -> None:
    status(answer, "416") if answer.start else right(answer, _)


@fault
def other_range(answer: Answer, content_range: str) -> None:
    """206 with this header, or with none, and not the requested bytes."""
    if not answer.start:
        right(answer, "")
        return
    headers = {"Content_Range": content_range.replace("_", " ")} if content_range else {}
    answer.head(206, Content_Length=len(answer.server.content), **headers)
    answer.wfile.write(answer.server.content)


@fault
def lying_range(answer: Answer, how_much: str) -> None:
    """The header is right, but the bytes are from the start of the file."""
    if not answer.start:
        right(answer, "")
        return
    content = answer.server.content
    answer.head(206, Content_Range=f"bytes {answer.start}-{len(content) - 1}/{len(content)}")
    answer.wfile.write(content if how_much == "all" else content[: len(content) - answer.start])
