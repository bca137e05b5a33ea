"""Runs traceql as a recipe of Nsight Systems: `nsys recipe traceql --input report.nsys-rep`.

nsys looks in NSYS_RECIPE_PATH for a folder `traceql` with a metadata.json, which is this package's, and imports the module
named there with the first python3 on PATH, which must have traceql installed (docs/nsys-recipe.md). The recipe package
itself ships with Nsight Systems.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

from nsys_recipe.lib import exceptions, recipe  # type: ignore[import-not-found,unused-ignore]
from nsys_recipe.lib.args import Option  # type: ignore[import-not-found,unused-ignore]

from traceql import config
from traceql.errors import TraceqlError
from traceql.opening import TraceSet, open_all
from traceql.reporting import Report, analyze


class TraceqlRecipe(recipe.Recipe):  # type: ignore[misc,unused-ignore]
    """All reports given are one run: the ranks of a job."""

    def run(self, context: Any) -> None:
        """Write findings.json, report.html and the record of the analysis into the output directory."""
        super().run(context)
        try:
            report = self._report()
        except TraceqlError as error:
            raise exceptions.ValueError(str(error)) from error
        report.save(Path(self.add_output_file("findings.json", "JSON")), "json")
        report.save(Path(self.add_output_file("report.html", "HTML")), "html")
        inputs = [str(Path(path).resolve()) for path in self._parsed_args.input]
        self._analysis_dict.update(
            {"EndTime": str(datetime.now()), "InputFiles": inputs, "Outputs": self._output_files}
        )
        self.create_analysis_file()

    def _report(self) -> Report:
        configuration = config.load(self._parsed_args.config)
        opened = open_all([Path(path) for path in self._parsed_args.input])
        if not opened.traces:
            raise TraceqlError(opened.unreadable[0])
        traces = TraceSet(configuration.equipped(opened.traces))
        return analyze(traces, selection=configuration.selection, unreadable=opened.unreadable)

    @classmethod
    def get_argument_parser(cls) -> Any:
        """The options every recipe has, and traceql's configuration file."""
        parser = super().get_argument_parser()
        parser.add_recipe_argument(Option.INPUT, required=True)
        parser.add_recipe_argument(Option.OUTPUT)
        parser.add_recipe_argument(Option.FORCE_OVERWRITE)
        parser.add_recipe_argument(
            "--config", type=Path, help="Configuration file of traceql, else the nearest one upwards"
        )
        return parser
