"""Put torch.profiler into a Python program that knows nothing of it.

This file is copied beside a generated ``sitecustomize`` on PYTHONPATH and runs inside the recorded program's own
interpreter, before its first line. It imports nothing but the standard library until the program imports torch; it must
keep working on Python 3.9 and must never break the program: whatever goes wrong is written to the event file.

The options come as JSON in one environment variable, see ``Options``. A trace appears when the chosen steps are over,
or when the program ends; a process of the program that neither used a GPU nor is the first one leaves none.
"""

from __future__ import annotations

import atexit
import importlib
import importlib.abc
import importlib.util
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

VARIABLE = "TRACEQL_INJECT"
MAIN_VARIABLE = "TRACEQL_INJECT_MAIN"
_KEPT_PERIODS = 1000


@dataclass
class Options:
    """What to record. Without ``active`` the whole program from ``import torch`` on; else so many steps of it."""

    folder: str = "."
    stacks: bool = False
    shapes: bool = True
    memory: bool = False
    step_on: str = "forward"
    """What ends a step: ``forward`` (the outermost module that is called first), or ``module:function`` by name."""
    skip: int = 0
    warmup: int = 0
    active: int = 0

    @classmethod
    def from_text(cls, text: str) -> Options:
        known = {field.name for field in fields(cls)}
        return cls(**{key: value for key, value in json.loads(text).items() if key in known})


class Recorder:
    """The profiler of one process: started when torch is there, stepped, and its trace written once."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.pid = os.getpid()
        self.is_main = os.environ.setdefault(MAIN_VARIABLE, str(self.pid)) == str(self.pid)
        self._profiler: Any = None
        self._written = False
        self._steps = 0
        self._last_ns = 0
        self._periods_us: list[int] = []

    def log(self, event: str, **details: object) -> None:
        """Append one line to this process's event file."""
        path = Path(self.options.folder) / f"inject-{self.pid}.jsonl"
        with suppress(OSError), path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"event": event, **details}) + "\n")

    def start(self) -> None:
        """Start the profiler; called right after ``import torch``, or at the first step when steps were chosen."""
        import torch.profiler as profiling

        active = self.options.active
        self._profiler = profiling.profile(
            activities=profiling.supported_activities(),
            schedule=profiling.schedule(wait=self.options.skip, warmup=self.options.warmup, active=active, repeat=1)
            if active
            else None,
            on_trace_ready=self._write if active else None,
            with_stack=self.options.stacks,
            record_shapes=self.options.shapes,
            profile_memory=self.options.memory,
        )
        self._profiler.start()
        self.log("started", steps=active)

    def step(self) -> None:
        """One step of the program ended."""
        if os.getpid() != self.pid:
            return
        now = time.perf_counter_ns()
        if self._last_ns and self._outside_profile() and len(self._periods_us) < _KEPT_PERIODS:
            self._periods_us.append((now - self._last_ns) // 1000)
        self._steps += 1
        if self._profiler is not None and not self._written:
            self._profiler.step()
        self._last_ns = time.perf_counter_ns()

    def _outside_profile(self) -> bool:
        """Whether the step that just ended ran without the profiler; the first after each change is left out."""
        options = self.options
        ended = self._steps  # steps that ended before this one
        return 0 < ended < options.skip or ended > options.skip + options.warmup + options.active

    def finish(self) -> None:
        """At the end of the program: write what is there."""
        if os.getpid() != self.pid:
            return
        if self._periods_us:
            self.log("periods", microseconds=self._periods_us)
        if self._profiler is None or self._written:
            return
        if self.options.active and self._steps <= self.options.skip + self.options.warmup:
            self.log("too few steps", steps=self._steps)
            return
        if not self._worth_writing():
            self.log("not written", reason="no GPU used and not the first process")
            return
        self._profiler.stop()  # with a schedule this calls _write
        if not self._written:
            self._write(self._profiler)

    def _worth_writing(self) -> bool:
        torch = sys.modules.get("torch")
        if "RANK" in os.environ or (torch is not None and torch.cuda.is_initialized()):
            return True
        others = any(Path(self.options.folder).glob("*.trace.json.gz"))
        return self.is_main and not others

    def _write(self, profiler: Any) -> None:
        if self._written:
            return
        self._written = True
        rank = os.environ.get("RANK", "")
        label = f"-rank{rank}" if rank.isdigit() else "" if self.is_main else f"-pid{self.pid}"
        path = Path(self.options.folder) / f"torch{label}.trace.json.gz"
        unfinished = path.with_name(f".unfinished-{self.pid}.json.gz")
        profiler.export_chrome_trace(str(unfinished))
        unfinished.replace(path)
        self.log("written", file=path.name, steps=self._steps)


class _AfterImport(importlib.abc.MetaPathFinder):
    """Calls back once when a module has been imported."""

    def __init__(self, name: str, then: Callable[[Any], None]) -> None:
        self._name = name
        self._then = then

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> Any:
        if fullname != self._name:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        loader = getattr(spec, "loader", None)
        if loader is not None and hasattr(loader, "exec_module"):
            execute = loader.exec_module

            def exec_module(module: object) -> None:
                execute(module)
                self._then(module)

            loader.exec_module = exec_module
        return spec


def _guarded(recorder: Recorder, what: str, function: Callable[..., Any]) -> Callable[..., None]:
    """``function`` for use inside the program: it swallows what it raises and says so in the event file."""

    def call(*arguments: object) -> None:
        try:
            function(*arguments)
        except Exception as error:
            recorder.log("error", where=what, error=f"{type(error).__name__}: {error}")

    return call


def _on_torch(recorder: Recorder) -> Callable[..., None]:
    def then(_module: Any) -> None:
        recorder.log("torch imported")
        if not recorder.options.active:
            recorder.start()
        elif recorder.options.step_on == "forward":
            _watch_first_module(recorder)
        elif recorder.options.step_on.startswith("__main__:"):
            _watch_main(recorder, recorder.options.step_on.partition(":")[2])

    return _guarded(recorder, "import torch", then)


def _watch_named(recorder: Recorder) -> None:
    """Wrap the function that ends a step as soon as its module is imported, which may itself import torch first."""
    module_name, _, function = recorder.options.step_on.partition(":")
    if not recorder.options.active or not function or module_name == "__main__":
        return
    then = _guarded(recorder, recorder.options.step_on, lambda module: _wrap(recorder, module, function))
    if module_name in sys.modules:
        then(sys.modules[module_name])
    else:
        sys.meta_path.insert(0, _AfterImport(module_name, then))


def _watch_first_module(recorder: Recorder) -> None:
    """Make a step of each call of the module that is called first; the hook sits on that one module only."""
    from torch.nn import Module

    original = Module.__call__

    def first_call(module: Any, *arguments: Any, **keywords: Any) -> Any:
        Module.__call__ = original
        recorder.log("step on", what=type(module).__qualname__)
        ended = _guarded(recorder, "step", lambda *_: recorder.step())
        module.register_forward_hook(lambda *_: ended())
        _guarded(recorder, "start", recorder.start)()
        return original(module, *arguments, **keywords)

    Module.__call__ = first_call


def _wrap(recorder: Recorder, module: Any, qualified: str) -> None:
    """Make a step of each call of ``module``'s function or method."""
    *owners, name = qualified.split(".")
    owner = module
    for part in owners:
        owner = getattr(owner, part)
    original = getattr(owner, name)
    started = False
    ended = _guarded(recorder, "step", recorder.step)
    start = _guarded(recorder, "start", recorder.start)

    def call(*arguments: Any, **keywords: Any) -> Any:
        nonlocal started
        if not started:
            started = True
            start()
        try:
            return original(*arguments, **keywords)
        finally:
            ended()

    call.__name__ = getattr(original, "__name__", name)
    setattr(owner, name, call)
    recorder.log("step on", what=qualified)


def _watch_main(recorder: Recorder, qualified: str) -> None:
    """Make a step of each return of a function of the script itself, which cannot be wrapped before it runs."""
    monitoring: Any = getattr(sys, "monitoring", None)
    if monitoring is None:
        recorder.log(
            "error", where="step", error="a function of __main__ needs Python 3.12; name forward or module:function"
        )
        return
    events = monitoring.events
    tool = monitoring.PROFILER_ID
    monitoring.use_tool_id(tool, "traceql")
    start = _guarded(recorder, "start", recorder.start)
    step = _guarded(recorder, "step", recorder.step)

    def on_start(code: Any, _offset: int) -> Any:
        main = sys.modules.get("__main__")
        if code.co_qualname == qualified and code.co_filename == getattr(main, "__file__", None):
            recorder.log("step on", what=qualified)
            monitoring.set_local_events(tool, code, events.PY_RETURN)
            monitoring.set_events(tool, 0)
            start()
        return monitoring.DISABLE

    def on_return(_code: Any, _offset: int, _value: Any) -> None:
        step()

    monitoring.register_callback(tool, events.PY_START, on_start)
    monitoring.register_callback(tool, events.PY_RETURN, on_return)
    monitoring.set_events(tool, events.PY_START)


def install() -> None:
    """Prepare this process; called from ``sitecustomize``."""
    text = os.environ.get(VARIABLE)
    if not text:
        return
    recorder = Recorder(Options.from_text(text))
    sys.meta_path.insert(0, _AfterImport("torch", _on_torch(recorder)))
    _watch_named(recorder)
    atexit.register(_guarded(recorder, "end", recorder.finish))
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


SITECUSTOMIZE = '''\
"""Written by traceql: prepares the profiler, then runs the sitecustomize it stands before, if there is one."""
import importlib.machinery
import importlib.util
import os
import sys

_here = os.path.dirname(os.path.abspath(__file__))
try:
    import traceql_inject

    traceql_inject.install()
except Exception as error:
    print(f"traceql: the profiler could not be prepared: {error}", file=sys.stderr)
_rest = [p for p in sys.path if os.path.abspath(p or ".") != _here]
_spec = importlib.machinery.PathFinder.find_spec("sitecustomize", _rest)
if _spec is not None and _spec.loader is not None:
    _module = importlib.util.module_from_spec(_spec)
    _spec.loader.exec_module(_module)
'''
