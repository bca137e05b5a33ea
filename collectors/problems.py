"""What can go wrong while recording, each with the remedy; told from a child's log where it says so."""

from __future__ import annotations

import re
from dataclasses import dataclass

from traceql.errors import TraceqlError


@dataclass(frozen=True)
class Problem:
    """One thing that prevents or spoils a recording, and what to do about it."""

    what: str
    fix: str

    def __str__(self) -> str:
        return f"{self.what}; {self.fix}"


class CollectError(TraceqlError):
    """A recording that cannot start or left nothing behind."""


class ProblemsError(CollectError):
    """Several problems at once; the command line prints one line for each."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = problems
        super().__init__("; ".join(str(p) for p in problems))


SAMPLE_HINT = "to try the analysis without a GPU: traceql analyze --sample list"

COUNTERS_FIX = (
    "run as root or with CAP_SYS_ADMIN (docker: --cap-add SYS_ADMIN), or let an administrator load the driver with "
    "NVreg_RestrictProfilingToAdminUsers=0 (/etc/modprobe.d) and reboot"
)

_PATTERNS: tuple[tuple[str, str, str], ...] = (
    # ncu and nsys
    (r"ERR_NVGPUCTRPERM", "no permission for the GPU's performance counters (ERR_NVGPUCTRPERM)", COUNTERS_FIX),
    (
        r"==ERROR==.*(?:driver resource|profiler is already|Failed to (?:initialize|create) the profiler)",
        "another profiler holds the GPU's counters, or this runtime does not offer them",
        "stop other profilers (DCGM: `dcgmi profile --pause`) and try again; in a sandbox without counters use torch",
    ),
    (
        r"==WARNING== No kernels were profiled",
        "ncu saw no kernel that matches",
        "widen --preset (all) or --kernels, or lower --skip",
    ),
    (
        r"(?:Unknown|unrecognized) runtime API|Importer error|Event requestor failed|does not support (?:this )?CUDA",
        "nsys could not import what it recorded: it is older than the CUDA of the program",
        "install a newer Nsight Systems (`traceql doctor --for nsys` shows which)",
    ),
    # memory
    (
        r"Not enough memory\. Please try to increase --mem-fraction-static",
        "the GPU's memory does not hold the model and its KV cache",
        "use a smaller model or --batch-size, more GPUs (--tp), or raise it: -- --mem-fraction-static 0.9",
    ),
    (
        r"CUDA out of memory|OutOfMemoryError|CUDA_ERROR_OUT_OF_MEMORY|cudaErrorMemoryAllocation",
        "the GPU ran out of memory",
        "free it (nvidia-smi shows who holds it), lower --batch-size, or leave less for the KV cache: "
        "-- --mem-fraction-static 0.7",
    ),
    (r"No space left on device", "the disk is full", "free space, or record elsewhere with -o"),
    (
        r"skipping \(\d+, \d+, \d+\) due to max batch size limit",
        "the KV cache is too small for this batch and length",
        "lower --batch-size, --input-len or --output-len, or raise: -- --mem-fraction-static 0.9",
    ),
    # network
    (
        r"[Aa]ddress already in use|[Pp]ort \d* ?is already in use|The port \d+ is in use",
        "a port that the program needs is in use",
        "give another with --port, or end the program that holds it (`ss -ltnp` shows it)",
    ),
    # model
    (
        r"is not a valid model identifier|is not a local folder|Repo id must|Repository ?Not ?Found"
        r"|does not appear to have a file named config\.json|No such file or directory: '[^']*config\.json'",
        "the model was not found",
        "give --model a folder with config.json or an existing Hugging Face id; without --model a built-in shape with "
        "dummy weights is used",
    ),
    (
        r"LocalEntryNotFoundError|couldn't connect to 'https://huggingface|We couldn't connect|Cannot send a request",
        "the model is not on this machine and the hub cannot be reached",
        "download it first and give its folder to --model, or leave --model out for the built-in dummy shape",
    ),
    (r"gated repo|401 Client Error", "the model is gated", "accept its licence and log in (`hf auth login`)"),
    # Nsight Compute's own
    (
        r"==ERROR== Failed to profile \"(?P<detail>[^\"]+)\"",
        "ncu could not replay a kernel, most often because all GPU memory must be saved before each replay",
        "leave GPU memory free: a smaller KV cache (-- --max-total-tokens N) or a smaller model",
    ),
    # the program's own build
    (
        r"No module named 'sgl_kernel\.flash_(?:ops|attn)'|(?m:^\w*Error: .*(?:flash_ops|Can not import FA3))",
        "this sglang has no FlashAttention 3 kernels",
        "choose another: --attention-backend flashinfer (or triton)",
    ),
    (
        r"invalid choice: .*attention|Invalid attention backend|Unsupported attention backend",
        "sglang does not know this attention backend",
        "`python -m sglang.launch_server --help` lists them",
    ),
    (
        r"ninja: (?:build stopped|error)|nvcc(?:: not found| fatal)|Could not find nvcc|CUDA_HOME .* not set",
        "a kernel could not be compiled at first use",
        "install the CUDA toolkit (nvcc) of torch's CUDA version and ninja, or set CUDA_HOME",
    ),
    (
        r"driver version is insufficient|driver on your system is too old",
        "the driver is too old for this CUDA",
        "update the NVIDIA driver, or install torch for an older CUDA",
    ),
    (
        r"No CUDA GPUs are available|no CUDA-capable device|Torch not compiled with CUDA enabled",
        "the program sees no GPU",
        "check nvidia-smi, CUDA_VISIBLE_DEVICES and that torch is a CUDA build",
    ),
    (r"no kernel image is available", "a library has no code for this GPU", "install a build for its architecture"),
    (
        r"NCCL error|ncclUnhandledCudaError|ncclSystemError|Watchdog caught collective operation timeout",
        "the GPUs could not talk to each other (NCCL)",
        "set NCCL_DEBUG=INFO and see the log; try NCCL_P2P_DISABLE=1, or --gpus with linked GPUs",
    ),
    (
        r"unrecognized arguments?: (?P<detail>.*)",
        "sglang does not know an option",
        "leave out what you gave after --, or check its --help",
    ),
    (r"No module named '(?P<detail>[\w.]+)'", "a Python module is missing", "install it in that Python"),
)  # fmt: skip


def explain(log: str) -> Problem | None:
    """The first known cause that ``log`` names, or None."""
    for pattern, what, fix in _PATTERNS:
        found = re.search(pattern, log)
        if found:
            detail = found.groupdict().get("detail")
            return Problem(f"{what} ({detail})" if detail else what, fix)
    return None


def last_error_line(log: str) -> str:
    """The line of ``log`` that most likely says what failed: the last one with *error* in it, else the last."""
    lines = [line.strip() for line in log.splitlines() if line.strip() and not line.startswith("#")]
    errors = [line for line in lines if re.search(r"\b\w*(?:Error|error|ERROR|Exception)\b", line)]
    return (errors or lines or ["no output"])[-1][:300]
