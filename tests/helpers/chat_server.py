"""A real HTTP server that answers like an OpenAI-compatible endpoint, and keeps what it was asked and has answered."""

import base64
import hashlib
import io
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from PIL import Image

from embedrl.tcot.parser import build
from embedrl.types import Modality


class Server(ThreadingHTTPServer):
    """Answers what `reply(body)` returns: a text, a dict (the whole JSON), bytes, or a status with one of them."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, reply):
        super().__init__(("127.0.0.1", 0), Handler)
        self.reply, self.lock = reply, threading.Lock()
        self.asked, self.finished = (
            [],
            [],
        )  # fingerprints of requests: that came in, that were answered to the last byte
        self.bodies = []
        self.open = self.most_open = 0

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/v1"

    def handle_error(self, request, client_address):
        """A client that was killed."""


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server, name = self.server, fingerprint(body)
        with server.lock:
            server.asked.append(name)
            server.bodies.append(body)
            server.open += 1
            server.most_open = max(server.most_open, server.open)
        try:
            answer = server.reply(body)
            status, answer = answer if isinstance(answer, tuple) else (200, answer)
            if isinstance(answer, str):
                answer = completion(answer)
            payload = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(payload)))
            self.end_headers()
            self.wfile.write(payload)
            self.wfile.flush()
            with server.lock:
                server.finished.append(name)
        finally:
            with server.lock:
                server.open -= 1

    def log_message(self, *args):
        pass


@contextmanager
def serving(reply):
    server = Server(reply)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def completion(text, finish="stop", **more):
    return {
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish, **more}]
    }


def fingerprint(body):
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:16]


def asked_text(body):
    """The text of the first turn."""
    return next(part["text"] for part in body["messages"][0]["content"] if part["type"] == "text")


def asked_pictures(body):
    """The pictures of the first turn."""
    urls = [part["image_url"]["url"] for part in body["messages"][0]["content"] if part["type"] == "image_url"]
    return [Image.open(io.BytesIO(base64.b64decode(url.partition("base64,")[2]))) for url in urls]


def valid_tcot(body, note=""):
    """A T-CoT that follows the template, for a brief prompt; it holds the request's fingerprint."""
    instruction, _, text = asked_text(body).partition("\n")
    words = instruction.removesuffix(":").split()
    modality = Modality(words[0] if words[0] != "target" else words[1])
    cues = {"keywords": text.split()[:2], "boxes": [(100, 100, 900, 900)], "frames": [1, 2]}
    return build(modality, note or "seen .", f"request {fingerprint(body)}", text or "a picture", **cues).render()
