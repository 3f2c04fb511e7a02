"""A local stand-in for an OpenAI-compatible server, with faults on demand."""

import hashlib
import http.server
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Fault = tuple[int, bytes, dict[str, str]]  # status, body, headers


class Teacher:
    """The server's replies and a record of its requests; `fault(number, body)` can replace a reply.

    The text of a reply depends only on the request. `delay` is the seconds that each reply takes.
    """

    def __init__(self, fault: Callable[[int, dict], Fault | None] = lambda number, body: None):
        self.fault = fault
        self.delay = 0.0
        self.gone = False
        self.requests: list[dict] = []
        self.answered: list[str] = []  # the body of each request that was answered
        self.at_once = self.most_at_once = 0
        self.keys: set[str | None] = set()
        self.lock = threading.Lock()

    def text(self, body: dict) -> str:
        last = body["messages"][-1]["content"] if "messages" in body else body["prompt"]
        digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:8]
        gold = re.findall(r"Correct answer: (.*)", last)
        options = re.findall(r"Options: (.*)", last)
        if gold:
            return f" By {digest} it follows that it is {gold[-1]}."
        chosen = options[-1].split(", ")[int(digest, 16) % 2] if options else digest
        if "Reason" in json.dumps(body):
            return f"By {digest} it follows. Answer: {chosen}"
        return chosen


@contextmanager
def serve(teacher: Teacher) -> Iterator[str]:
    """Serve on a free port; yield the address for `url`."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:  # noqa: N802
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if teacher.gone:  # a connection that was kept alive
                self.close_connection = True
                return
            with teacher.lock:
                number = len(teacher.requests)
                teacher.requests.append(body)
                teacher.keys.add(self.headers.get("Authorization"))
                teacher.at_once += 1
                teacher.most_at_once = max(teacher.most_at_once, teacher.at_once)
            try:
                time.sleep(teacher.delay)
                status, content, headers = teacher.fault(number, body) or (200, b"", {})
                if status == 200 and not content:
                    chat = "messages" in body
                    text = teacher.text(body)
                    message = {"message": {"role": "assistant", "content": text}}
                    choice = {"index": 0, "finish_reason": "stop"}
                    choice |= message if chat else {"text": text}
                    kind = "chat.completion" if chat else "text_completion"
                    answer = {
                        "id": "1",
                        "object": kind,
                        "created": 0,
                        "model": body["model"],
                        "choices": [choice],
                        "usage": {"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 14},
                    }
                    content = json.dumps(answer).encode()
            finally:
                with teacher.lock:
                    teacher.at_once -= 1
            if status == 200:
                with teacher.lock:
                    teacher.answered.append(json.dumps(body, sort_keys=True))
            self.send_response(status)
            for name, value in {"Content-Type": "application/json", **headers}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            try:
                self.wfile.write(content)
                self.wfile.flush()
            except OSError:
                return  # the client is gone

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    class Quiet(http.server.ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

        def handle_error(self, *_: object) -> None:
            """Ignore the broken connections of killed processes."""

    server = Quiet(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=[0.05], daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        teacher.gone = True
        server.shutdown()
        server.server_close()


def refusal(status: int, message: str = "no", **headers: str) -> Fault:
    """Return a reply with an error in the protocol's format."""
    body = json.dumps({"error": {"message": message, "type": "x", "code": None}}).encode()
    return status, body, {name.replace("_", "-"): value for name, value in headers.items()}
