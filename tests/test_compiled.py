"""Where the machine code of compiled loops lies."""

from __future__ import annotations

from pathlib import Path

import pytest
from numba.core import config

from traceql import cache
from traceql.compiled import compiled
from traceql.derived import interval_kernels
from traceql.loaders import scan_code


def double(value: int) -> int:
    return 2 * value


def test_is_kept_in_the_users_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "CACHE_DIR", "")
    monkeypatch.setattr("traceql.compiled.user_folder", lambda: tmp_path)
    function = compiled(double)
    assert Path(function.stats.cache_path).is_relative_to(tmp_path / "numba")
    assert config.CACHE_DIR == ""


def test_numbas_own_setting_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path))
    assert Path(compiled(double).stats.cache_path).is_relative_to(tmp_path)


def test_nothing_is_kept_beside_the_package() -> None:
    """What an uninstall leaves of a package's folder, Python takes for the package."""
    package = Path(cache.__file__).parent
    assert not Path(interval_kernels.parents.stats.cache_path).is_relative_to(package)
    assert not scan_code._folder().is_relative_to(package)
