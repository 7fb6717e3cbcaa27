"""report.html: nothing in it that is not in report.json, nothing of a file's text that a browser would run."""

from __future__ import annotations

import itertools
import json
import re
from html.parser import HTMLParser
from typing import Any

import pytest

from nexus_core.report.collect import ReportOrder, collect
from nexus_core.report.page import render, shown

VOID = {"meta", "br", "img", "link", "input", "hr"}
STATIC = {"95"}  # "95 % interval" is the template's own


class Page(HTMLParser):
    """Elements with their attributes in order, figures with their text, and the text outside of figures and pictures."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.figures: list[tuple[dict[str, str | None], str]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag == "data":
            self.figures.append((dict(attrs), ""))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        if "data" in self.open:
            attributes, text = self.figures[-1]
            self.figures[-1] = (attributes, text + data)
        elif not {"svg", "style"} & set(self.open):
            self.texts.append(data)


def strings(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [text for item in value.values() for text in strings(item)]
    if isinstance(value, list):
        return [text for item in value for text in strings(item)]
    return [value] if isinstance(value, str) else []


def at(document: Any, place: str) -> Any:
    for key in place.split("/"):
        document = document[int(key) if isinstance(document, list) else key]
    return document


def test_every_figure_is_that_of_report_json(collected, page):
    written = json.loads(json.dumps(collected))
    figures = Page(page).figures
    for attributes, text in figures:
        value = at(written, attributes["data-at"])
        assert text == shown(value, attributes["data-form"])
        assert attributes["value"] == ("" if value is None else str(value))
    places = {attributes["data-at"] for attributes, _ in figures}
    assert len(places) > 250
    for part in (
        "retention/kept",
        "retention/returns/1/missed",
        "retention/rows/1/ratio",
        "retention/rows/0/controls/2/score",
        "conditions/rows/1/length/3/ratio",
        "conditions/rows/0/strata/1/student",
        "conditions/rows/0/batch/score_alone",
        "conditions/rows/1/ms_per_token",
        "forms/variants/0/rows/1/score",
        "forms/exports/0/rows/0/same_answers",
        "registry/groups/0/n",
        "times/stages/2/seconds",
        "times/units/1/seconds",
        "study/rows/0/score/value",
        "router/rows/1/counts/2",
        "sizes/stages/0/bytes",
    ):
        assert part in places


def test_no_other_number_is_written(collected, page):
    """A number outside of a figure is part of a text that report.json has, word for word."""
    known = "\n".join(strings(collected))
    for text in Page(page).texts:
        for word in re.findall(r"\S*\d\S*", text):
            assert word in STATIC or word.strip(".,:;()") in known, f"{word!r} in {text.strip()[:80]!r}"


def test_no_text_of_a_file_is_run(collected, page, made):
    found = Page(page)
    assert (
        page.count("&lt;script&gt;alert(1)") >= 10
    )  # answers, reasons, details, decisions, kinds, notes, units, fates
    assert made.HOSTILE in "".join(found.texts)
    tags = {tag for tag, _ in found.elements}
    assert not tags & {"script", "img", "iframe", "object", "embed", "link", "form", "base"}
    assert not [name for _, attributes in found.elements for name in attributes if name.startswith("on")]


def test_hostile_names_stay_in_their_attributes(collected):
    for row in (*collected["profiles"]["rows"], *collected["trainings"]["rows"], *collected["retention"]["rows"]):
        for key in {"teacher", "capability", "name"} & row.keys():
            row[key] = '"><script>alert(3)</script>'
    tags = {tag for tag, _ in Page(render(collected)).elements}
    assert "script" not in tags


def test_it_asks_for_nothing_and_forbids_everything(page):
    found = Page(page)
    links = [a[name] for _, a in found.elements for name in ("src", "href", "action", "data") if a.get(name)]
    assert links and all(link.startswith("#") for link in links)
    assert "url(" not in page and "@import" not in page
    policy = next(a["content"] for tag, a in found.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert policy == "default-src 'none'; style-src 'unsafe-inline'"


def test_headings_go_down_one_by_one_and_ids_are_found(page):
    found = Page(page)
    levels = [int(tag[1]) for tag, _ in found.elements if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    ids = [a["id"] for _, a in found.elements if "id" in a]
    assert len(ids) == len(set(ids))
    assert {a["href"][1:] for tag, a in found.elements if tag == "a"} <= set(ids)


def test_headers_have_a_scope_and_pictures_a_name(page):
    found = Page(page)
    assert all(a.get("scope") for tag, a in found.elements if tag == "th")
    assert all(a.get("aria-label") or a.get("aria-hidden") for tag, a in found.elements if tag == "svg")
    assert not found.open and page.startswith("<!doctype html>")


def test_the_verdict_and_the_worst_capability_stand_first(page):
    text = " ".join("".join(Page(page).texts).split())
    assert text.index("fail") < text.index("Worst capability: errors") < text.index("Retention")


def test_a_page_of_an_empty_run_says_what_is_missing(tmp_path):
    page = render(collect(ReportOrder(tmp_path)))
    assert page.count("Not in this run:") >= 8 and "nexus verify --run" in page and not Page(page).open


def test_the_document_is_small(page):
    assert len(page) < 200_000


@pytest.mark.parametrize(
    ("value", "form", "text"),
    [
        (None, ".3f", "–"),
        (0.12345, ".3f", "0.123"),
        (1234567, ",", "1,234,567"),
        ("nan", ".3f", "nan"),
        (True, "d", "True"),
    ],
)
def test_a_figure_as_it_is_read(value, form, text):
    assert shown(value, form) == text
