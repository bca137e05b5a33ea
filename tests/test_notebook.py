"""The example notebook runs, as it is committed, and shows nothing of the machine it ran on."""

from __future__ import annotations

from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parent.parent / "docs" / "notebook.ipynb"


def test_it_executes() -> None:
    nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed")
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed")
    book = nbformat.read(NOTEBOOK, 4)
    assert len(book.cells) == 10
    nbclient.NotebookClient(book, timeout=120, kernel_name="python3").execute()
    assert "Rotary embedding takes" in str(book.cells[-1].outputs)


def test_its_outputs_are_there_and_hold_no_local_path() -> None:
    text = NOTEBOOK.read_text()
    assert '"output_type": "execute_result"' in text
    assert "PosixPath" not in text
    assert str(NOTEBOOK.parent.parent) not in text
