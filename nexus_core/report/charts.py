"""Where the lines and marks of a picture lie. Numbers in, coordinates out: what is drawn with them is the template's.

All pictures are 340 units wide, so that they are readable on a telephone at their own size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

WIDTH, LEFT, RIGHT = 340, 40, 330
TOP, BOTTOM, HEIGHT = 10, 160, 182
ROW, HEAD = 46, 8  # of the retention picture
CELL, NAMES, LABELS = 20, 66, 92  # of the heat map: a cell, the blocks' names, the columns' names
BEYOND = 1.25  # a control that is further off than this, in teacher's scores, is drawn at the edge
Point = tuple[float, float]


def retention_chart(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A line for each capability: interval, value, the least that its contract allows, and the controls."""
    values = [row[key] for row in rows for key in ("ratio", "high", "retain_fraction")]
    controls = [c["ratio"] for row in rows for c in row["controls"]]
    most = max([1.05, *(v for v in values if v is not None), *(min(v, BEYOND) for v in controls if v is not None)])

    def x(value: float | None) -> float | None:
        return None if value is None else round(8 + (WIDTH - 16) * max(0.0, min(value, most)) / most, 1)

    lines = [
        {
            "label": row["capability"],
            "verdict": row["verdict"],
            "y": HEAD + i * ROW + 28,
            "x": x(row["ratio"]),
            "low": x(row["low"]),
            "high": x(row["high"]),
            "limit": x(row["retain_fraction"]),
            "controls": [{"name": c["name"], "x": x(c["ratio"])} for c in row["controls"] if c["ratio"] is not None],
        }
        for i, row in enumerate(rows)
    ]
    marks = [{"x": x(tick), "label": f"{tick:g}"} for tick in ticks(most)]
    return {"width": WIDTH, "height": HEAD + len(rows) * ROW + 22, "lines": lines, "ticks": marks}


def line_chart(lines: Sequence[Sequence[Point]], most: float | None = None) -> dict[str, Any] | None:
    """Lines over a common x, from zero or from what lies below it. None where there is nothing to draw."""
    points = [point for line in lines for point in line]
    if not points:
        return None
    last = max(x for x, _ in points) or 1.0
    least = min(0.0, *(y for _, y in points))
    top = most or max(0.0, *(y for _, y in points)) or 1.0

    def height(y: float) -> float:
        return round(_place(min(y, top) - least, top - least, BOTTOM, TOP), 1)

    def at(x: float, y: float) -> str:
        return f"{_place(x, last, LEFT, RIGHT):.1f},{height(y)}"

    return {
        "width": WIDTH,
        "height": HEIGHT,
        "left": LEFT,
        "right": RIGHT,
        "top": TOP,
        "bottom": BOTTOM,
        "lines": [" ".join(at(x, y) for x, y in line) for line in lines],
        "x": [{"at": round(_place(t, last, LEFT, RIGHT), 1), "label": _short(t)} for t in ticks(last)],
        "y": [{"at": height(t), "label": _short(t)} for t in ticks(top, least)],
        "last": last,
    }


def variance_chart(blocks: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Share of the variance by number of components, and where the kept number lies on each line."""
    chart = line_chart([block["curve"] for block in blocks], most=1.0)
    if chart is not None:
        kept = [(block["kept"], _height(block["curve"], block["kept"])) for block in blocks]
        chart["marks"] = [
            {"x": round(_place(k, chart["last"], LEFT, RIGHT), 1), "y": round(_place(y, 1.0, BOTTOM, TOP), 1)}
            for k, y in kept
        ]
    return chart


def _height(curve: Sequence[Point], x: float) -> float:
    """Of a curve at x, between its points."""
    before, after = [p for p in curve if p[0] <= x], [p for p in curve if p[0] > x]
    if not before or not after:
        return float((before or after or [(0, 0.0)])[-1 if before else 0][1])
    (x0, y0), (x1, y1) = before[-1], after[0]
    return y0 + (y1 - y0) * (x - x0) / (x1 - x0)


def training_chart(training: Mapping[str, Any], key: str) -> dict[str, Any] | None:
    """Loss or anchor error by step, with a mark at each rollback."""
    chart = line_chart([[(p["step"], p[key]) for p in training["points"] if isinstance(p[key], int | float)]])
    if chart is not None:
        steps = [rollback["step"] for rollback in training["rollbacks"]]
        chart["rollbacks"] = [round(_place(min(s, chart["last"]), chart["last"], LEFT, RIGHT), 1) for s in steps]
    return chart


def heat_map(ablations: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """A row for each block, a column for each ablation; `strength` is the drop as a share of the largest, 0 to 100."""
    if not ablations:
        return None
    blocks = list(dict.fromkeys(a["block"] for a in ablations))
    columns = sorted(dict.fromkeys(a["what"] for a in ablations), key=_order)
    worst = max([a["drop"] for a in ablations if isinstance(a["drop"], int | float)], default=0.0)
    cells = [
        {
            "x": NAMES + columns.index(a["what"]) * CELL,
            "y": LABELS + blocks.index(a["block"]) * CELL,
            "strength": round(100 * max(0.0, a["drop"]) / worst) if worst > 0 else 0,
            "title": f"{a['block']}, {a['what']}: drop {a['drop']:+.3f}",
        }
        for a in ablations
        if isinstance(a["drop"], int | float)
    ]
    return {
        "width": max(WIDTH, NAMES + len(columns) * CELL + 56),
        "height": LABELS + len(blocks) * CELL + 4,
        "size": CELL - 2,
        "cells": cells,
        "blocks": [
            {"y": LABELS + i * CELL + 14, "label": name if len(name) <= 9 else f"…{name[-8:]}"}
            for i, name in enumerate(blocks)
        ],
        "columns": [{"x": NAMES + i * CELL + 12, "y": LABELS - 6, "label": name} for i, name in enumerate(columns)],
    }


def _order(what: str) -> tuple[str, int]:
    """Kinds together, "piece 10" after "piece 9"."""
    kind, _, number = what.rpartition(" ")
    return (kind, int(number)) if number.isdecimal() else (what, 0)


def ticks(most: float, least: float = 0.0) -> list[float]:
    """Round numbers from `least` to `most`, about four of them, zero among them."""
    raw = (most - least) / 4
    if raw <= 0:
        return [0.0]
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(unit * of for of in (1, 2, 5, 10) if unit * of >= raw * (1 - 1e-9))
    return [round(i * step, 12) for i in range(math.ceil(least / step - 1e-9), math.floor(most / step + 1e-9) + 1)]


def _place(value: float, most: float, start: float, end: float) -> float:
    return start + (end - start) * value / most


def _short(value: float) -> str:
    return f"{value / 1000:g}k" if value >= 1000 else f"{value:g}"
