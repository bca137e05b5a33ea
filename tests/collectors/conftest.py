"""A machine made of fakes: nvidia-smi, nsys, ncu on PATH, sglang and torch on PYTHONPATH."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from traceql.collectors import manifest
from traceql.collectors.manifest import Manifest

FAKES = Path(__file__).parent / "fakes"


@dataclass
class FakeMachine:
    """Runs the command line with a PATH of fakes, in a folder of its own."""

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def bin(self) -> Path:
        return self.folder / "bin"

    @property
    def site(self) -> Path:
        return self.folder / "site"

    def install(self, *tools: str) -> None:
        """Put fakes on PATH."""
        for tool in tools:
            text = (FAKES / tool).read_text(encoding="utf-8").replace("/usr/bin/env python3", sys.executable)
            (self.bin / tool).write_text(text, encoding="utf-8")
            (self.bin / tool).chmod(0o755)

    def install_sglang(self, version: str, *, help_of: str | None = None, torch_cuda: str = "13.0") -> None:
        """An sglang whose benchmark has the options of that version, and a torch of that CUDA."""
        package = self.site / "sglang"
        package.mkdir(parents=True)
        (package / "__init__.py").touch()
        where = package / "benchmark" if tuple(map(int, version.split("."))) >= (0, 5, 17) else package
        where.mkdir(exist_ok=True)
        shutil.copy(FAKES / "one_batch.py", where / ("one_batch.py" if where != package else "bench_one_batch.py"))
        shutil.copy(FAKES / f"help-{help_of or version}.txt", where / "help.txt")
        shutil.copy(FAKES / "launch_server.py", package)
        self.install_distribution("sglang", version)
        self.install_torch(torch_cuda)

    def install_torch(self, cuda: str) -> None:
        """A torch that cannot be imported, but tells its version."""
        (self.site / "torch").mkdir(parents=True, exist_ok=True)
        (self.site / "torch" / "__init__.py").write_text("raise ImportError('a fake')\n", encoding="utf-8")
        (self.site / "torch" / "version.py").write_text(f"cuda = {cuda!r}\n", encoding="utf-8")
        self.install_distribution("torch", "2.11.0")

    def install_distribution(self, name: str, version: str) -> None:
        """The metadata that importlib reads."""
        folder = self.site / f"{name}-{version}.dist-info"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", encoding="utf-8")

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start the command line."""
        environment = {
            "PATH": f"{self.bin}{os.pathsep}/usr/bin{os.pathsep}/bin", "PYTHONPATH": str(self.site),
            "HOME": str(self.folder / "home"), **self.environment,
        }  # fmt: skip
        return subprocess.Popen(
            [sys.executable, "-m", "traceql.cli.main", *arguments], cwd=self.folder, env=environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def run(self, *arguments: str, timeout: float = 60) -> tuple[int, str]:
        """Run the command line: exit code and everything it printed."""
        process = self.start(*arguments)
        try:
            text, _ = process.communicate(timeout=timeout)
        finally:
            process.kill()
        return process.returncode, text

    def latest(self) -> Manifest:
        """The manifest of runs/latest."""
        return manifest.read(self.folder / "runs" / "latest")

    def newest(self) -> Manifest:
        """The manifest of the run recorded last, whether it holds a trace or not."""
        return manifest.read(sorted((self.folder / "runs").glob("[0-9]*"))[-1])


@pytest.fixture
def bare(tmp_path: Path) -> FakeMachine:
    """A machine with nothing on it."""
    machine = FakeMachine(tmp_path)
    machine.bin.mkdir()
    machine.site.mkdir()
    return machine


@pytest.fixture
def machine(bare: FakeMachine) -> FakeMachine:
    """A machine with two GPUs, nsys, ncu and sglang 0.5.12."""
    bare.install("nvidia-smi", "nsys", "ncu")
    bare.install_sglang("0.5.12")
    return bare
