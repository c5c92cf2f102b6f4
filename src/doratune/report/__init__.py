"""The run folder as one HTML page: no script, no network, light and dark, printable."""

from doratune.report.page import render
from doratune.report.stage import write_report

__all__ = ["render", "write_report"]
