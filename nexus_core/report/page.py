"""report.html from report.json's content, through one template that escapes everything.

Each figure of the page is a <data> element that names its place in report.json, holds the exact value and shows it rounded.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from nexus_core.report import charts

CHARTS = ("retention_chart", "variance_chart", "training_chart", "heat_map")


@cache
def _template() -> Any:
    from jinja2 import DictLoader, Environment, StrictUndefined

    folder = files("nexus_core.report").joinpath("templates")
    texts = {name: folder.joinpath(name).read_text("utf-8") for name in ("page.html", "parts.html", "style.css")}
    environment = Environment(
        loader=DictLoader(texts), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["shown"] = shown
    environment.filters["plain_first"] = lambda names: sorted(names, key=lambda name: name.startswith("baseline "))
    environment.globals.update({name: getattr(charts, name) for name in CHARTS})
    return environment.get_template("page.html")


def render(document: Mapping[str, Any]) -> str:
    """The page, ready to be written."""

    def at(place: str) -> Any:
        value: Any = document
        for key in place.split("/"):
            value = value[int(key)] if isinstance(value, list) else value[key]
        return value

    text: str = _template().render(doc=document, at=at)
    return text


def shown(value: Any, form: str) -> str:
    """A figure as a person reads it; None is a dash, and a word (a number that is none) stays."""
    if value is None:
        return "–"
    return format(value, form) if isinstance(value, int | float) and not isinstance(value, bool) else str(value)
