"""What a kernel's name says: a short form, and the kind of work by the patterns of ``kernels.toml``."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files
from pathlib import Path

import msgspec
import polars as pl

from traceql.errors import UsageError

_ANONYMOUS = re.compile(r"\((?:anonymous namespace|anonymous)\)::")
_MANGLED = re.compile(r"_ZN?K?(?=\d)")
_GENERIC = {"Kernel", "Kernel2", "kernel", "device_kernel", "kentry", "cutlass_kernel"}
"""Entry points whose first template argument names the kernel."""
_FUNCTOR = re.compile(
    r"(\w+?)(?:_kernel_cuda|_kernel_impl|_cuda_kernel)\b|CUDAFunctor(?:OnSelf)?_(\w+)<|(\w+)Functor<|(\w+)Ops<"
)
"""What an ATen wrapper kernel computes: direct_copy_kernel_cuda, CUDAFunctor_add<, MulFunctor<, ArgMaxOps<."""


_LONGEST = 1 << 16  # characters looked at; CUTLASS names reach some 10,000
_DEEPEST = 4


def short_name(name: str) -> str:
    """Last identifier of a demangled signature: no return type, namespace, template arguments or parameters.

    ``void flashinfer::Prefill<Traits>(Params)`` → ``Prefill``. ATen's generic kernels keep what they compute:
    ``elementwise_kernel[direct_copy]``. A name that is no signature stays as it is.
    """
    return _short(name[:_LONGEST])


def _short(name: str, depth: int = 0) -> str:
    if _MANGLED.match(name):
        return _mangled_identifier(name) or name
    plain = _ANONYMOUS.sub("", name)
    flat = _outside_brackets(plain).strip()
    last = flat.split(" ")[-1].split("::")[-1] if flat else name
    if last in _GENERIC and "<" in plain and depth < _DEEPEST:
        return f"{last}[{_short(plain.split('<', 1)[1].split('(')[0].split(',')[0].rstrip('> '), depth + 1)}]"
    if "at::native" in name and (found := _FUNCTOR.search(plain)):
        return f"{last}[{next(group for group in found.groups() if group)}]"
    return last or name


def _mangled_identifier(name: str) -> str | None:
    """Last nested identifier of an Itanium-mangled name: ``_ZN5aiter3addI…`` → ``add``."""
    rest = _MANGLED.sub("", name, count=1)
    last = None
    while found := re.match(r"\d+", rest):
        length = int(found.group())
        start = found.end()
        last, rest = rest[start : start + length], rest[start + length :]
    return last


def _outside_brackets(name: str) -> str:
    kept: list[str] = []
    depth = 0
    for character in name:
        if character in "<(":
            depth += 1
        elif character in ">)" and depth:
            depth -= 1
        elif not depth:
            kept.append(character)
    return "".join(kept)


class _Row(msgspec.Struct, forbid_unknown_fields=True):
    category: str
    pattern: str


class _File(msgspec.Struct, forbid_unknown_fields=True):
    kernel: list[_Row]


_own: list[tuple[str, str]] = []


def extend(path: Path) -> None:
    """Put the rows of a user's TOML file (``[[kernel]] category = …, pattern = …``) before the packaged ones.

    UsageError names the file and what is wrong with it.
    """
    try:
        rows = _read(path.read_bytes())
        for _, pattern in rows:
            pl.Series([""]).str.contains(pattern)
    except (OSError, UnicodeDecodeError, RecursionError, msgspec.DecodeError, pl.exceptions.PolarsError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error).splitlines()[0]
        raise UsageError(f"{path}: kernel patterns cannot be read ({why})") from error
    _own[:0] = rows


def _read(text: bytes) -> list[tuple[str, str]]:
    return [(row.category, row.pattern) for row in msgspec.toml.decode(text, type=_File).kernel]


def category_patterns() -> list[tuple[str, str]]:
    """(category, regular expression) in the order they are tried; the first that matches a full name wins."""
    return [*_own, *_packaged()]


@cache
def _packaged() -> list[tuple[str, str]]:
    return _read(files("traceql").joinpath("kernels.toml").read_bytes())


def described(kernels: pl.DataFrame) -> pl.DataFrame:
    """``kernels`` with ``short_name`` (where missing) and ``category`` filled from the distinct names."""
    names = kernels.get_column("name").unique().drop_nulls()
    category = pl.coalesce(
        pl.when(pl.col("name").str.contains(pattern)).then(pl.lit(category))
        for category, pattern in category_patterns()
    )
    lookup = pl.DataFrame(
        {"name": names, "_short": [short_name(name) for name in names]},
        schema={"name": pl.String, "_short": pl.String},
    )
    return (
        kernels.join(lookup.with_columns(_category=category), on="name", how="left", maintain_order="left")
        .with_columns(short_name=pl.coalesce("short_name", "_short"), category=pl.coalesce("category", "_category"))
        .drop("_short", "_category")
    )
