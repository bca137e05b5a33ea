"""Writes docs/notebook.ipynb, executed: from opening a trace to a rule of one's own in ten cells. Run it from anywhere."""

from __future__ import annotations

from pathlib import Path

import nbclient
import nbformat

CELLS: list[tuple[str, str]] = [
    (
        "markdown",
        "# traceql in a notebook\n\nFrom a trace to a query of your own and a rule of your own. The capture is a bundled one: "
        "eager decode of Llama-3-8B with SGLang on an H200, three steps under the PyTorch profiler.",
    ),
    (
        "code",
        "import polars as pl\n\nimport traceql as tq\nfrom traceql import samples\n\n"
        'trace = tq.open(samples.path("sglang-h200-bs64-decode-eager"))\ntrace',
    ),
    ("code", 'trace.table("steps").select("step_id", "kind", "batch_size", "period_ns", "gpu_busy_ns", "kernels")'),
    (
        "code",
        "# tables are LazyFrames: where does the GPU's time go?\n"
        '(\n    trace.kernels.filter(pl.col("step_id") == 1)\n    .group_by("category")\n'
        '    .agg(pl.len().alias("kernels"), (pl.col("dur_ns").sum() / 1000).alias("us"))\n'
        '    .sort("us", descending=True)\n    .collect()\n)',
    ),
    (
        "code",
        "# and where does it wait, and for what?\ntrace.sql(\n"
        '    "select p.cause, p.detail, count(*) as parts, sum(p.dur_ns) / 1e6 as ms "\n'
        '    "from gap_parts p join gaps g on p.gap_id = g.gap_id where g.step_id = 1 group by p.cause, p.detail order by ms desc"\n)',
    ),
    ("code", "report = tq.analyze(trace)\nreport"),
    (
        "code",
        'with pl.Config(fmt_str_lengths=100):\n    display(report.findings.select("code", "severity", "message"))',
    ),
    (
        "code",
        "# a CUDA graph replay has no operators; the eager run of the same model names its kernels\n"
        'graph = tq.open(samples.path("sglang-h200-bs64-decode-graph"))\nalignment = tq.align(graph, trace)\n'
        'print(f"{alignment.coverage.time_pct:.1f} % of the kernel time named")\n'
        'alignment.kernels.filter(pl.col("step_id") == 1).select("op", "module", "dur_ns", "eager_dur_ns").slice(8, 8)',
    ),
    (
        "code",
        "# a rule of your own: what share of a step is rotary embedding?\n"
        "class RopeShare(tq.Rule):\n"
        '    code = "OWN001"\n    name = "rope-share"\n    summary = "Rotary embedding takes a noticeable part of the GPU time."\n'
        "    severity = tq.Severity.INFO\n"
        '    needs = ("gpu_rows", "steps")\n\n'
        "    def check(self, trace, options):\n"
        '        kernels = trace.table("kernels").filter(pl.col("step_id").is_not_null())\n'
        '        share = kernels.filter(pl.col("category") == "rope")["dur_ns"].sum() / kernels["dur_ns"].sum()\n'
        "        if share > 0.005:\n"
        '            yield self.finding(f"Rotary embedding takes {100 * share:.1f} % of the kernel time.", key=("rope",))',
    ),
    (
        "code",
        "from traceql.engine import Selection\n\ntq.analyze(trace, selection=Selection([RopeShare])).found[0]",
    ),
]


def main() -> None:
    """Write the notebook with its outputs beside this file."""
    book = nbformat.v4.new_notebook(
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    )
    for number, (kind, text) in enumerate(CELLS):
        make = nbformat.v4.new_code_cell if kind == "code" else nbformat.v4.new_markdown_cell
        book.cells.append(make(text, id=f"cell-{number}"))
    nbclient.NotebookClient(book, timeout=120, kernel_name="python3").execute()
    for cell in book.cells:
        cell.metadata.pop("execution", None)  # when each cell ran is nobody's business, and changes every time
    book.metadata.pop("language_info", None)
    nbformat.write(book, Path(__file__).with_name("notebook.ipynb"))


if __name__ == "__main__":
    main()
