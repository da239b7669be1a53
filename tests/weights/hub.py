"""A small hub in this process: as much of its protocol as fetching a file takes."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

COMMIT = "c0ffee" + "0" * 34


class Hub(ThreadingHTTPServer):
    """Serves `files`, {repository: {file: content}}.

    cut_at: connections end before this byte of any file; lies: contents whose hash is given wrong;
    requests: (method, file, Range header) of every request.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, dict[str, bytes]] = {}
        self.cut_at: int | None = None
        self.lies: set[bytes] = set()
        self.requests: list[tuple[str, str, str | None]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def gets(self, file: str = "") -> list[str | None]:
        """Range headers of the GET requests for files that end so."""
        return [bytes for method, path, bytes in self.requests if method == "GET" and path.endswith(file)]


class Handler(BaseHTTPRequestHandler):
    """`/OWNER/NAME/resolve/REVISION/FILE`: HEAD says size and hash, GET sends the file or the rest of it."""

    server: Hub

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        repository, _, rest = self.path.lstrip("/").partition("/resolve/")
        revision, _, file = rest.partition("/")
        wanted = self.headers["Range"]
        self.server.requests.append((self.command, file, wanted))
        if repository not in self.server.files:
            return self.refuse("RepoNotFound")
        if file not in self.server.files[repository]:
            return self.refuse("EntryNotFound")
        if revision not in ("main", COMMIT):
            return self.refuse("RevisionNotFound")
        content = self.server.files[repository][file]
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
        self.send_response(206 if wanted else 200)
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("X-Linked-Size", str(len(content)))
        self.send_header("X-Linked-Etag", f'"{self.digest(content)}"')
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content[start : self.server.cut_at])
        return None

    def digest(self, content: bytes) -> str:
        return hashlib.sha256(content + b"?" * (content in self.server.lies)).hexdigest()

    def refuse(self, code: str) -> None:
        self.send_response(404)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving() -> Iterator[Hub]:
    """A hub that answers until the block ends."""
    with Hub() as hub:
        thread = Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join()
