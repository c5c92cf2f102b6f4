"""The run folder as HTML pages: no script, no network, light and dark, printable."""

from doratune.report.comparison import render_comparison
from doratune.report.page import render
from doratune.report.stage import write_comparison, write_report

__all__ = ["render", "render_comparison", "write_comparison", "write_report"]
