"""A local stand-in for the Hugging Face Hub: the part of its protocol that downloads use."""

import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager

REVISION = "0123456789abcdef0123456789abcdef01234567"
Repositories = dict[str, dict[str, bytes]]  # models/OWNER/NAME or datasets/OWNER/NAME: files


@contextmanager
def serve(repositories: Repositories) -> Iterator[str]:
    """Serve repositories at REVISION on a free port; yield the address."""

    class Handler(_Handler):
        served = repositories

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


class _Handler(http.server.BaseHTTPRequestHandler):
    served: Repositories = {}

    def do_HEAD(self) -> None:  # noqa: N802
        self._answer(body=False)

    def do_GET(self) -> None:  # noqa: N802
        self._answer(body=True)

    def do_POST(self) -> None:  # noqa: N802
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self._answer(body=True, paths=request.get("paths"))

    def _answer(self, body: bool, paths: list[str] | None = None) -> None:
        path, _, query = self.path.strip("/").partition("?")
        for name, files in self.served.items():
            plain = name.removeprefix("models/")  # URLs of a model's files omit its kind
            if path == f"api/{name}/revision/{REVISION}":
                siblings = [{"rfilename": file} for file in files]
                self._send_json({"id": plain, "sha": REVISION, "siblings": siblings}, body)
            elif path.startswith(f"api/{name}/tree/{REVISION}"):
                below = path.removeprefix(f"api/{name}/tree/{REVISION}").strip("/")
                self._send_json(_listing(files, below, "recursive=true" in query.lower()), body)
            elif path == f"api/{name}/paths-info/{REVISION}":
                entries = [e for e in _listing(files) if e["path"] in (paths or [])]
                self._send_json(entries, body)
            elif path.removeprefix(f"{plain}/resolve/{REVISION}/") in files:
                self._send(200, files[path.removeprefix(f"{plain}/resolve/{REVISION}/")], body)
            else:
                continue
            return
        self._send(404, b"{}", body)

    def _send_json(self, value: object, body: bool) -> None:
        self._send(200, json.dumps(value).encode(), body)

    def _send(self, status: int, content: bytes, body: bool) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{_etag(content)}"')
        self.send_header("X-Repo-Commit", REVISION)
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


def _listing(files: dict[str, bytes], below: str = "", recursive: bool = True) -> list[dict]:
    """Return the files below a folder, or its direct files and folders if not recursive."""
    start = f"{below}/" if below else ""
    entries = {}
    for name, content in files.items():
        rest = name.removeprefix(start)
        if name.startswith(start) and ("/" not in rest or recursive):
            entry = {"type": "file", "path": name, "size": len(content), "oid": _etag(content)}
            entries[name] = entry
        elif name.startswith(start):
            folder = start + rest.split("/")[0]
            entries[folder] = {"type": "directory", "path": folder, "oid": _etag(folder.encode())}
    return list(entries.values())


def _etag(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
