"""The templates: HTML escaped, an undefined name an error."""

from __future__ import annotations

from jinja2 import Environment, PackageLoader, StrictUndefined

from doratune.record.schemas import SPLITS
from doratune.report import text

_ENVIRONMENT = Environment(
    loader=PackageLoader("doratune.report", "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_ENVIRONMENT.filters |= {
    name: getattr(text, name)
    for name in (
        "count",
        "duration",
        "figure",
        "figure_range",
        "memory",
        "percent",
        "plain",
        "short_place",
        "small",
    )
}
_ENVIRONMENT.globals |= {"NOT_MEASURED": text.NOT_MEASURED, "SPLITS": SPLITS}


def fill(name: str, **values: object) -> str:
    """A page from one of the templates."""
    return _ENVIRONMENT.get_template(name).render(**values)
