"""Text on a terminal: wrapped to its width, and no line longer than what it says."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console, RenderableType


def put(console: Console, content: RenderableType = "", indent: int = 0) -> None:
    """Print ``content`` ``indent`` columns from the left, its wrapped lines too.

    Rich fills every line up to the width; spaces at the end of a line get into files, diffs and what people copy.
    """
    from rich.text import Text

    options = console.options.update(width=max(1, console.width - indent))
    for segments in console.render_lines(content, options, pad=False):
        line = Text(" " * indent)
        for segment in segments:
            line.append(segment.text, segment.style)
        line.rstrip()
        console.print(line, soft_wrap=True)
