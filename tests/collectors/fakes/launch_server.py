"""Stands for sglang's server: health, streaming generation, and profiles of every rank.

FAKE_SGLANG: crash ends at the start, refuse answers /start_profile with an error.
"""

import gzip
import json
import os
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

words = sys.argv[1:]
failure = os.environ.get("FAKE_SGLANG", "")
if failure == "crash":
    print("OSError: [Errno 98] Address already in use")
    sys.exit(1)
ranks = int(words[words.index("--tp-size") + 1]) if "--tp-size" in words else 1


class Handler(BaseHTTPRequestHandler):
    """Answers as the server does, with a token every few milliseconds."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Keep quiet."""

    def do_GET(self) -> None:
        self._answer(200, b"ok")

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/start_profile":
            if failure == "refuse":
                self._answer(500, b"Profiling is already in progress")
                return
            threading.Thread(target=self._profile, args=(Path(body["output_dir"]),)).start()
            self._answer(200, b"Start profiling.\n")
            return
        self.send_response(200)
        self.send_header("Connection", "close")
        self.end_headers()
        for number in range(body["sampling_params"]["max_new_tokens"]):
            time.sleep(0.005)
            chunk = {"text": "", "meta_info": {"completion_tokens": number + 1}}
            self.wfile.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")
        self.wfile.write(b"data: [DONE]\n\n")
        self.close_connection = True

    def _profile(self, folder: Path) -> None:
        for rank in range(ranks):
            with gzip.open(folder / f"1700000000.0-TP-{rank}.trace.json.gz", "wt") as file:
                json.dump({"schemaVersion": 1, "traceEvents": [], "distributedInfo": {"rank": rank}}, file)

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


ThreadingHTTPServer.request_queue_size = 256
ThreadingHTTPServer(("127.0.0.1", int(words[words.index("--port") + 1])), Handler).serve_forever()
