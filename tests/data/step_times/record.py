"""Times a decode-shaped program, each run a process of its own, without a profiler: python record.py RUNS > h200.json

A step is what a decode step is made of: the host builds page tables in Python and copies them, then one CUDA graph reads
the weights of 32 layers (Llama-3-8B shapes, bf16), and the host waits. Needs a GPU, its driver and nothing else.
"""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
import time
from statistics import median

LAYERS, BATCH, WARM_UP, STEPS = 32, 64, 60, 300
WEIGHTS = {"qkv": 4096 * 6144 * 2, "o": 4096 * 4096 * 2, "gate_up": 4096 * 28672 * 2, "down": 14336 * 4096 * 2}
READ = b"""
.version 7.0
.target sm_70
.address_size 64
.visible .entry read_weights(.param .u64 from, .param .u64 into, .param .u64 count)
{
    .reg .pred %p<3>;
    .reg .f32 %f<6>;
    .reg .b32 %r<7>;
    .reg .b64 %d<8>;
    ld.param.u64 %d1, [from];
    ld.param.u64 %d2, [into];
    ld.param.u64 %d3, [count];
    cvta.to.global.u64 %d1, %d1;
    cvta.to.global.u64 %d2, %d2;
    mov.u32 %r1, %ctaid.x;
    mov.u32 %r2, %ntid.x;
    mov.u32 %r3, %tid.x;
    mov.u32 %r4, %nctaid.x;
    mad.lo.u32 %r5, %r1, %r2, %r3;
    mul.lo.u32 %r6, %r4, %r2;
    cvt.u64.u32 %d4, %r5;
    cvt.u64.u32 %d5, %r6;
    mov.f32 %f5, 0f00000000;
NEXT:
    setp.ge.u64 %p1, %d4, %d3;
    @%p1 bra DONE;
    shl.b64 %d6, %d4, 4;
    add.u64 %d7, %d1, %d6;
    ld.global.v4.f32 {%f1, %f2, %f3, %f4}, [%d7];
    add.f32 %f5, %f5, %f1;
    add.f32 %f5, %f5, %f2;
    add.f32 %f5, %f5, %f3;
    add.f32 %f5, %f5, %f4;
    add.u64 %d4, %d4, %d5;
    bra NEXT;
DONE:
    setp.eq.f32 %p2, %f5, 0f7F7FFFFF;
    @%p2 st.global.f32 [%d2], %f5;
    ret;
}
\0"""


def one_run() -> float:
    """Median step of one process, ms."""
    cuda = ctypes.CDLL("libcuda.so.1")

    def call(name: str, *arguments: object) -> None:
        if code := getattr(cuda, name)(*arguments):
            raise SystemExit(f"{name} failed with {code}")

    pointer = ctypes.c_void_p
    device = ctypes.c_int()
    context, module, kernel, stream, graph, ready = (pointer() for _ in range(6))
    call("cuInit", 0)
    call("cuDeviceGet", ctypes.byref(device), 0)
    call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
    call("cuCtxSetCurrent", context)
    call("cuModuleLoadData", ctypes.byref(module), READ)
    call("cuModuleGetFunction", ctypes.byref(kernel), module, b"read_weights")
    call("cuStreamCreate", ctypes.byref(stream), 1)

    def allocated(size: int) -> ctypes.c_uint64:
        address = ctypes.c_uint64()
        call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(size))
        call("cuMemsetD8_v2", address, ctypes.c_ubyte(0), ctypes.c_size_t(size))
        return address

    weights = {name: allocated(size) for name, size in WEIGHTS.items()}
    out, table = allocated(4096), allocated(4 * BATCH)
    on_host = (ctypes.c_int * BATCH)()
    call("cuStreamBeginCapture_v2", stream, 0)
    for _ in range(LAYERS):
        for name, size in WEIGHTS.items():
            values = (weights[name], out, ctypes.c_uint64(size // 16))
            given = (pointer * 3)(*(ctypes.cast(ctypes.pointer(v), pointer) for v in values))
            call("cuLaunchKernel", kernel, 1056, 1, 1, 256, 1, 1, 0, stream, given, None)
    call("cuStreamEndCapture", stream, ctypes.byref(graph))
    call("cuGraphInstantiateWithFlags", ctypes.byref(ready), graph, ctypes.c_uint64(0))
    times = []
    for _ in range(WARM_UP + STEPS):
        began = time.perf_counter_ns()
        pages = 0
        for request in range(BATCH):
            pages += (512 + request + 15) // 16
            on_host[request] = pages
        call("cuMemcpyHtoDAsync_v2", table, on_host, ctypes.c_size_t(4 * BATCH), stream)
        call("cuGraphLaunch", ready, stream)
        call("cuStreamSynchronize", stream)
        times.append(time.perf_counter_ns() - began)
    return median(times[WARM_UP:]) / 1e6


def in_processes(runs: int) -> list[float]:
    """The median step of each of so many processes, one after the other, ms."""
    command = [sys.executable, __file__]
    return [float(subprocess.run(command, capture_output=True, text=True, check=True).stdout) for _ in range(runs)]


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps({"metric": "decode step", "runs_ms": in_processes(int(sys.argv[1]))}))
    else:
        print(f"{one_run():.4f}")
