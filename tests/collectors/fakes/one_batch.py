"""Stands for sglang's one-batch benchmark: tells the options of one version, writes results and a small trace.

FAKE_SGLANG: oom, hang, crash, notrace, skip, stubborn (ignores interrupts and leaves a grandchild).
"""

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

words = sys.argv[1:]
if "--help" in words:
    print((Path(__file__).resolve().parent / os.environ.get("FAKE_HELP", "help.txt")).read_text())
    sys.exit(0)


def values(option: str) -> list[str]:
    """The words after ``option`` up to the next one."""
    if option not in words:
        return []
    rest = words[words.index(option) + 1 :]
    return rest[: next((i for i, word in enumerate(rest) if word.startswith("--")), len(rest))]


print("Load weight begin. avail mem=139.10 GB", flush=True)
failure = os.environ.get("FAKE_SGLANG", "")
if os.environ.get("FAKE_SGLANG_IN") and os.environ["FAKE_SGLANG_IN"] not in " ".join(words):
    failure = ""
if failure == "oom":
    print("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 16.00 GiB.")
    sys.exit(1)
if failure == "crash":
    print("Traceback (most recent call last):\nValueError: something unheard of")
    sys.exit(3)
if failure == "skip":
    print(f"skipping ({values('--batch-size')[0]}, 512, 32) due to max batch size limit")
    sys.exit(0)
if failure == "stubborn":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    grandchild = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    Path(os.environ["FAKE_PIDS"]).write_text(f"{os.getpid()} {grandchild.pid}")
if failure in ("hang", "stubborn"):
    time.sleep(600)
batch = int(values("--batch-size")[0])
with Path(values("--result-filename")[0]).open("a") as results:
    for number, size in enumerate(values("--batch-size")):
        seconds = (0.0134 if "--disable-cuda-graph" in words else 0.0072) + number * 1e-5
        row = {"batch_size": int(size), "prefill_latency": 1.1, "median_decode_latency": seconds}
        results.write(json.dumps(row) + "\n")
if "--profile" in words and "CUDA_PROFILER" not in words and failure != "notrace":
    prefix = (values("--profile-filename-prefix") or values("--profile-prefix"))[0]
    stage = values("--profile-stage")[0]
    name = (
        f"{prefix}_batch{batch}_input{values('--input-len')[0]}_output{values('--output-len')[0]}_{stage}.trace.json.gz"
    )
    kernel = {
        "ph": "X",
        "cat": "kernel",
        "name": "gemm",
        "pid": 0,
        "tid": 7,
        "ts": 1.0,
        "dur": 2.0,
        "args": {"device": 0},
    }
    with gzip.open(Path(os.environ["SGLANG_TORCH_PROFILER_DIR"]) / name, "wt") as file:
        json.dump({"schemaVersion": 1, "deviceProperties": [], "traceEvents": [kernel]}, file)
