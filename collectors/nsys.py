"""Nsight Systems: the command that records a program, and what it leaves behind."""

from __future__ import annotations

import re
from pathlib import Path

from .child import ask
from .command import Command
from .problems import Problem
from .software import Tool, Version, dotted, nsys_cuda, nsys_for, parse_version

_IMPORT_TIMEOUT_S = 300.0


def command(
    tool: Tool,
    program: Command,
    output: Path,
    *,
    graph_trace: str = "node",
    trace: str = "cuda,nvtx,osrt",
    capture_range: bool = False,
    cpu_samples: bool = False,
) -> Command:
    """``program`` under nsys. ``output`` is the report's path without its suffix.

    With ``capture_range`` recording starts at cudaProfilerStart. graph_trace: node shows the kernels inside a CUDA
    graph, graph only its replays.
    """
    sampling = "process-tree" if cpu_samples else "none"
    words = [
        tool.path, "profile", f"--trace={trace}", f"--cuda-graph-trace={graph_trace}", "--trace-fork-before-exec=true",
        f"--sample={sampling}", f"--cpuctxsw={sampling}",
    ]  # fmt: skip
    if capture_range:
        words += ["--capture-range=cudaProfilerApi", "--capture-range-end=stop"]
    return program.wrapped_in(*words, f"--output={output}", "--force-overwrite=true")


def fit(tool: Tool | None, torch_cuda: str | None) -> Problem | None:
    """Why this nsys cannot record a program of that CUDA; None when it can, or when the program's CUDA is unknown."""
    if tool is None:
        return Problem(
            "nsys is not installed",
            "install Nsight Systems (package nsight-systems of NVIDIA or Debian non-free) and put nsys on PATH",
        )
    cuda, version = parse_version(torch_cuda), tool.version
    if version is None:
        return Problem(f"nsys does not tell its version ({tool.path})", "reinstall Nsight Systems")
    known = nsys_cuda(version)
    if cuda is not None and (known is None or known[0] < cuda[0]):
        return _too_old(tool, known, cuda)
    return None


def _too_old(tool: Tool, known: Version | None, cuda: Version) -> Problem:
    wanted = nsys_for(cuda)
    return Problem(
        f"nsys {tool.text} knows CUDA up to {dotted(known) if known else '11'}, the program uses {dotted(cuda)}: it "
        "stops importing at the first runtime call it does not know, and its report keeps only what came before",
        f"install Nsight Systems {dotted(wanted)} or newer" if wanted else "install a newer Nsight Systems",
    )


def finish(tool: Tool, output: Path) -> Problem | None:
    """Import a .qdstrm that nsys left without making a report of it, or say how to do that elsewhere."""
    report = output.with_name(output.name + ".nsys-rep")
    if report.exists() and report.stat().st_size:
        return None
    stream = output.with_name(output.name + ".qdstrm")
    if not stream.exists():
        return None  # the log tells why
    importer = _importer(tool)
    if importer is None:
        return Problem(
            "nsys has no host part here: it left a .qdstrm and no report",
            f"on a machine with Nsight Systems {tool.text}: QdstrmImporter -i {stream.name} -o {report.name}",
        )
    code, said = ask([str(importer), "-i", str(stream), "-o", str(report)], timeout_s=_IMPORT_TIMEOUT_S)
    if report.exists() and report.stat().st_size:
        stream.unlink()
        return None
    return _import_failed(code, said, stream.name)


def _import_failed(code: int, said: str, stream: str) -> Problem:
    library = re.search(r"error while loading shared libraries: (lib[\w.+-]+)", said)
    if library:
        return Problem(
            f"nsys's importer does not start without {library[1]}: it left {stream} and no report",
            f"install the package that brings {library[1]} (libdw.so.1: libdw1), and record again",
        )
    last = next((line.strip() for line in reversed(said.splitlines()) if line.strip()), f"exit code {code}")
    return Problem(f"nsys's importer made no report of {stream}: {last}", "keep the file; a newer nsys may read it")


def _importer(tool: Tool) -> Path | None:
    """The program that makes a report of a .qdstrm, in the host part beside nsys; Nsight Compute names that otherwise."""
    root = Path(tool.path).resolve().parent
    for _ in range(3):
        for place in ("host-linux-*/QdstrmImporter", "linux-desktop-*/QdstrmImporter", "QdstrmImporter"):
            found = next(iter(sorted(root.glob(place))), None)
            if found is not None:
                return found
        root = root.parent
    return None
