"""The evidence of one trace, section by section."""

from __future__ import annotations

from collections.abc import Sequence

from traceql.report import headline, kernel_sections, notes, roofline_section, step_sections
from traceql.report.model import Card, TraceView
from traceql.trace import Trace


def brief_view(trace: Trace, label: str) -> TraceView:
    """A trace whose evidence the report leaves out."""
    return TraceView(
        label=label, source=headline.source_name(trace), gpus=notes.gpus(trace), verdict=headline.verdict(trace),
        chains=(), steps=None, series=(), gaps=None, layers=(), layers_note="", categories=None, kernels_scope="",
        kernels=None, roofline=None, notes=(), provenance=(), timeline=None, brief=True,
    )  # fmt: skip


def trace_view(
    trace: Trace, label: str, file: str, index: int, cards: Sequence[Card], *, timeline_share: float
) -> TraceView:
    """All sections of ``trace``, the ``index``-th of the report; ``label`` is what the report calls it.

    ``timeline_share`` is the part of the page's slices its timeline may use; 0 leaves the timeline out.
    """
    packed = None
    if timeline_share:
        from traceql.report.timeline import pack

        packed = pack(trace, index, cards, timeline_share)
    strip, strip_note = kernel_sections.layer_strip(trace, index)
    return TraceView(
        label=label,
        source=headline.source_name(trace),
        gpus=notes.gpus(trace),
        verdict=headline.verdict(trace),
        chains=step_sections.chains(trace),
        steps=step_sections.step_table(trace, index),
        series=step_sections.step_series(trace, index),
        gaps=kernel_sections.gap_histogram(trace),
        layers=strip,
        layers_note=strip_note,
        categories=kernel_sections.categories(trace),
        kernels_scope=kernel_sections.kernels_scope(trace),
        kernels=kernel_sections.kernel_table(trace),
        roofline=roofline_section.roofline(trace),
        notes=notes.notes(trace),
        provenance=notes.provenance(trace, file),
        timeline=packed,
    )
