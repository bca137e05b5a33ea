"""What is read from the recorded inputs of a copy, and the tables of names behind rules of the families 1xx and 3xx."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from traceql.derived.compilation import COMPILING
from traceql.derived.copies import copy_form
from traceql.derived.intervals import nearest
from traceql.derived.naming import labels


def test_copy_form_of_a_strided_view() -> None:
    form = copy_form(
        "[[64, 4096], [64, 4096], []]", "[[4096, 1], [6144, 1], []]", '["c10::BFloat16", "c10::BFloat16", "Scalar"]'
    )
    assert form == {
        "shape": "[64, 4096]",
        "from_strides": "[6144, 1]",
        "from_dtype": "BFloat16",
        "to_dtype": "BFloat16",
        "moved_bytes": 2 * 64 * 4096 * 2,
    }


def test_copy_form_of_a_cast_that_broadcasts() -> None:
    form = copy_form("[[8, 16], [16], []]", None, '["float", "long int", "Scalar"]')
    assert form is not None
    assert (form["from_dtype"], form["to_dtype"], form["from_strides"]) == ("long int", "float", None)
    assert form["moved_bytes"] == 8 * 16 * 4 + 16 * 8


@pytest.mark.parametrize("shapes", [None, "", "[]", "[[1]]", "not json", "[1, 2]"])
def test_copy_form_of_unreadable_inputs(shapes: str | None) -> None:
    assert copy_form(shapes, None, '["float", "float"]') is None


def test_nearest_ancestor() -> None:
    parent = np.array([-1, 0, 1, 2, -1])
    mask = np.array([True, False, True, False, False])
    assert nearest(mask, parent).tolist() == [-1, 0, 0, 2, -1]
    assert nearest(mask, parent, itself=True).tolist() == [0, 0, 2, 2, -1]


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("torch/_dynamo/convert_frame.py(1200): _compile", "Dynamo"),
        ("torch/_inductor/compile_fx.py(700): compile_fx_inner", "Inductor"),
        ("triton/compiler/compiler.py(226): compile", "Triton"),
        ("triton/runtime/autotuner.py(140): _bench", "autotuning"),
        ("backend_compile (dynamo_timed)", "torch.compile"),
        ("cuModuleLoadDataEx", "module load"),
        ("cuLibraryLoadData", "module load"),
        ("TorchDynamo Cache Lookup", None),
        ("Torch-Compiled Region: 0/1", None),
        ("torch/_dynamo/eval_frame.py(956): compile_wrapper", None),
        ("vllm/compilation/wrapper.py(208): __call__", None),
        ("triton/compiler/compiler.py(479): launch_metadata", None),
        ("triton/runtime/jit.py(563): compute_cache_key", None),
        ("torch/compiler/__init__.py(442): is_compiling", None),
        ("<built-in function compile>", None),
        ("cuModuleGetFunction", None),
    ],
)
def test_what_is_compilation(name: str, what: str | None) -> None:
    assert labels(pl.Series([name, None]), COMPILING).to_list() == [what, None]
