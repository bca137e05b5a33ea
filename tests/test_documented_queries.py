"""The SQL examples of the documentation run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import traces

DOCS = Path(__file__).parent.parent / "docs"
PAGES = ["roofline.md", "nsight-compute.md"]
QUERIES = [
    (page, query)
    for page in PAGES
    for query in re.findall(r"```sql\n(.*?)```", (DOCS / page).read_text("utf-8"), re.DOTALL)
]


@pytest.mark.parametrize(("page", "query"), QUERIES)
def test_query_runs(page: str, query: str) -> None:
    rows = traces.sample("sglang-h200-bs64-decode-eager").sql(query)
    assert rows.width > 1
    if page == "roofline.md" and "note is not null" not in query:
        assert not rows.is_empty()
