"""A bounded load for an SGLang server: so many requests at once, each of a known length, and the time of every token.

Standard library only. Prompts are token ids drawn from a seeded generator, so that two runs send the same load.
"""

from __future__ import annotations

import http.client
import json
import random
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import urlsplit

_FIRST_ID, _LAST_ID = 3, 9_999
"""Token ids every vocabulary has."""


@dataclass(frozen=True)
class Shape:
    """A load: ``requests`` at once with ``input_len`` prompt and ``output_len`` generated tokens each."""

    requests: int
    input_len: int
    output_len: int
    shared_prefix: int = 0
    """Leading tokens that every second request has in common."""
    seed: int = 0


@dataclass
class Answer:
    """When each token of one request arrived, in seconds of one clock; ``error`` when it did not end well."""

    token_times: list[tuple[float, int]] = field(default_factory=list)
    """Time and the number of tokens so far."""
    error: str | None = None


def prompts(shape: Shape) -> list[list[int]]:
    """The token ids of every request."""
    draw = random.Random(shape.seed)
    shared = [draw.randint(_FIRST_ID, _LAST_ID) for _ in range(min(shape.shared_prefix, shape.input_len - 1))]
    found = []
    for number in range(shape.requests):
        start = shared if number % 2 else []
        found.append(start + [draw.randint(_FIRST_ID, _LAST_ID) for _ in range(shape.input_len - len(start))])
    return found


class Wave:
    """One wave of requests in flight."""

    def __init__(self, url: str, shape: Shape, *, timeout_s: float) -> None:
        self._url, self._shape, self._timeout_s = url, shape, timeout_s
        self.answers = [Answer() for _ in range(shape.requests)]
        self._threads = [
            threading.Thread(target=self._send, args=(answer, ids), daemon=True)
            for answer, ids in zip(self.answers, prompts(shape), strict=True)
        ]

    def start(self) -> None:
        """Send every request."""
        for thread in self._threads:
            thread.start()

    def decoding(self) -> bool:
        """Whether every request has its first token and none is done."""
        return all(a.token_times and a.token_times[-1][1] < self._shape.output_len for a in self.answers)

    def running(self) -> bool:
        return any(thread.is_alive() for thread in self._threads)

    def join(self, timeout_s: float) -> bool:
        """Wait for the answers; whether all came."""
        deadline = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return not self.running()

    def error(self) -> str | None:
        """The first error any request met."""
        return next((a.error for a in self.answers if a.error), None)

    def step_ms(self) -> float | None:
        """Median time between two tokens of one request while all of them decode: one decode step of the server."""
        begun = max((a.token_times[0][0] for a in self.answers if a.token_times), default=0.0)
        ended = min((a.token_times[-1][0] for a in self.answers if a.token_times), default=0.0)
        gaps = []
        for answer in self.answers:
            for (before, count_before), (after, count_after) in zip(
                answer.token_times, answer.token_times[1:], strict=False
            ):
                if before >= begun and after <= ended and count_after > count_before:
                    gaps.append((after - before) / (count_after - count_before))
        return sorted(gaps)[len(gaps) // 2] * 1000 if gaps else None

    def _send(self, answer: Answer, ids: list[int]) -> None:
        body = {
            "input_ids": ids,
            "stream": True,
            "sampling_params": {"max_new_tokens": self._shape.output_len, "ignore_eos": True, "temperature": 0},
        }
        try:
            for chunk in _stream(self._url, "/generate", body, self._timeout_s):
                meta = chunk.get("meta_info") or {}
                count = int(meta.get("completion_tokens") or len(answer.token_times) + 1)
                answer.token_times.append((time.monotonic(), count))
        except (OSError, ValueError, TypeError, AttributeError, http.client.HTTPException) as error:
            answer.error = f"{type(error).__name__}: {error}"


def post(url: str, path: str, body: dict[str, object], timeout_s: float) -> tuple[int, str]:
    """POST JSON; status and the answer's text."""
    connection = _connect(url, timeout_s)
    try:
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, answer.read().decode("utf-8", "replace")
    finally:
        connection.close()


def get_status(url: str, path: str, timeout_s: float) -> int | None:
    """Status of a GET; None while nothing answers."""
    connection = _connect(url, timeout_s)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def _stream(url: str, path: str, body: dict[str, object], timeout_s: float) -> Iterator[dict[str, dict[str, int]]]:
    """The events of a streamed answer; ``timeout_s`` holds for each of them, and for all together."""
    connection = _connect(url, timeout_s)
    deadline = time.monotonic() + timeout_s
    try:
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        if answer.status != 200:
            raise ValueError(f"HTTP {answer.status}: {answer.read(200).decode('utf-8', 'replace')}")
        for raw in answer:
            if time.monotonic() > deadline:
                raise TimeoutError(f"the answer had not ended after {timeout_s:.0f} s")
            line = raw.strip()
            if line.startswith(b"data:") and not line.endswith(b"[DONE]"):
                yield json.loads(line[5:])
    finally:
        connection.close()


def _connect(url: str, timeout_s: float) -> http.client.HTTPConnection:
    parts = urlsplit(url)
    return http.client.HTTPConnection(parts.hostname or "127.0.0.1", parts.port or 80, timeout=timeout_s)
