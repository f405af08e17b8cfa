"""Charts of a report as SVG. Vega-Lite draws them when the page is written, so the page needs neither scripts nor a network.

Colours are names of CSS variables, so that the page defines them for light mode, dark mode and paper. Each mark has a
description for screen readers, which is also shown as a title when the pointer is over it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from supertickets.errors import UserError

Row = dict[str, Any]
WIDTH = 360  # of a chart with its axes: the width of a phone, so that text keeps its size there
SERIES = 8  # number of colours for runs, see page.css; with more runs, they repeat
# Vega needs real colours; each of these stands for a CSS variable.
_VARIABLES = {f"#0a0b{i:02x}": f"var(--series-{i})" for i in range(SERIES)}
_INK, _MUTED, _GRID = "#0a0c00", "#0a0c01", "#0a0c02"
_VARIABLES |= {_INK: "var(--ink)", _MUTED: "var(--muted)", _GRID: "var(--grid)"}
_COLOURS = [colour for colour in _VARIABLES if colour.startswith("#0a0b")]
_TEXT = {"labelColor": _INK, "titleColor": _INK, "labelFontSize": 12, "titleFontSize": 12, "titleFontWeight": "normal"}
_CONFIG = {
    "background": None,
    "font": "sans-serif",
    "view": {"stroke": None},
    "axis": {**_TEXT, "gridColor": _GRID, "domainColor": _MUTED, "tickColor": _MUTED, "labelLimit": 200},
    "header": {"labelColor": _INK, "titleColor": _INK, "labelFontSize": 12, "labelPadding": 4},
    "text": {"color": _INK, "fontSize": 12},
}


def draw_lines(rows: Sequence[Row], *, from_zero: bool, format: str) -> str:
    """`value` over `epoch`, with one line for each `run` (a number from 1); the last point of each line shows its number.

    `format` is the format of the values in d3's notation: `~s` for 1.2M, `.2f` for 0.12.
    """
    runs = sorted({row["run"] for row in rows})
    last = [max((row for row in rows if row["run"] == run), key=lambda row: row["epoch"]) for run in runs]
    layers: list[Row] = [
        {"mark": {"type": "line", "strokeWidth": 2}, "encoding": {"color": _colour(runs)}},
        {"mark": {"type": "point", "filled": True, "size": 24}, "encoding": {"color": _colour(runs)}},
    ]
    if len(runs) > 1:
        text = {"type": "text", "dx": 5, "align": "left", "fontWeight": "bold"}
        layers.append({"data": {"values": last}, "mark": text, "encoding": {"text": {"field": "run"}, "color": _colour(runs)}})
    x = {"field": "epoch", "type": "quantitative", "axis": {"tickMinStep": 1, "format": "d", "tickCount": 6}}
    axis = {"tickCount": 5, "format": format}
    y = {"field": "value", "type": "quantitative", "title": None, "scale": {"zero": from_zero}, "axis": axis}
    return _to_svg({"data": {"values": list(rows)}, "encoding": {"x": x, "y": y}, "layer": layers}, height=220)


def draw_points(rows: Sequence[Row], *, x_title: str) -> str:
    """`y` against `x`, with one numbered point for each `run`."""
    runs = sorted({row["run"] for row in rows})
    text = {"type": "text", "dx": 8, "align": "left", "fontWeight": "bold"}
    most = 1.1 * max(row["x"] for row in rows)  # leaves room for the number of the last point
    encoding = {
        "x": {"field": "x", "type": "quantitative", "title": x_title, "scale": {"domain": [0, most], "nice": True}},
        "y": {"field": "y", "type": "quantitative", "title": None, "scale": {"zero": False, "padding": 12}},
        "color": _colour(runs),
    }
    layers = [
        {"mark": {"type": "point", "filled": True, "size": 90, "opacity": 1}},
        {"mark": text, "encoding": {"text": {"field": "run"}}},
    ]
    return _to_svg({"data": {"values": list(rows)}, "encoding": encoding, "layer": layers}, height=240)


def draw_scores(rows: Sequence[Row]) -> str:
    """`value` of each `label`, in the given order: bars for a single run, numbered marks for several runs."""
    runs = sorted({row["run"] for row in rows})
    labels = list(dict.fromkeys(row["label"] for row in rows))
    encoding = {
        "y": {"field": "label", "type": "nominal", "sort": labels, "title": None},
        "x": {"field": "value", "type": "quantitative", "title": None, "scale": {"domain": [0, 1]}, "axis": {"tickCount": 5}},
        "color": _colour(runs),
    }
    if len(runs) == 1:
        return _to_svg({"data": {"values": list(rows)}, "encoding": encoding, "mark": "bar"}, height={"step": 18})
    text = {"type": "text", "fontWeight": "bold"}
    marks = [
        {
            "mark": {"type": "rule", "color": _GRID},
            "encoding": {"color": {"value": _GRID}, "x": {"value": 0}, "x2": {"value": "width"}},
        }
    ]
    marks.append({"mark": text, "encoding": {"text": {"field": "run"}}})
    return _to_svg({"data": {"values": list(rows)}, "encoding": encoding, "layer": marks}, height={"step": 18})


def draw_layers(rows: Sequence[Row]) -> str:
    """`sparsity` of each `layer` (its number in the order in which the layers run) with its `name`."""
    encoding = {
        "x": {"field": "layer", "type": "quantitative", "title": "layer, in the order they run", "scale": {"nice": False}},
        "y": {
            "field": "sparsity",
            "type": "quantitative",
            "title": None,
            "scale": {"domain": [0, 1]},
            "axis": {"tickCount": 5},
        },
        "description": {"field": "about"},
    }
    width = max(1.0, min(8.0, (WIDTH - 60) / max(len(rows), 1) - 0.5))
    mark = {"type": "bar", "width": width, "color": _COLOURS[0]}
    return _to_svg({"data": {"values": list(rows)}, "encoding": encoding, "mark": mark}, height=180)


def draw_units(rows: Sequence[Row], *, kinds: Sequence[str]) -> str:
    """The units `kept` of each `block` and `kind` in front of the `full` width, with one column for each kind."""
    blocks = list(dict.fromkeys(row["block"] for row in rows))
    label_px = 24 + 7 * max(len(block) for block in blocks)
    step = (WIDTH - label_px) / len(kinds)
    x = {"type": "quantitative", "title": None, "axis": {"tickCount": 2, "grid": False}}
    encoding = {"y": {"field": "block", "type": "nominal", "sort": blocks, "title": None}}
    layers = [
        {"mark": {"type": "bar", "color": _GRID}, "encoding": {"x": {**x, "field": "full"}, "description": {"field": "about"}}},
        {
            "mark": {"type": "bar", "color": _COLOURS[0], "height": {"band": 0.6}, "aria": False},
            "encoding": {"x": {**x, "field": "kept"}},
        },
    ]
    spec = {"width": max(step - 16, 40), "height": {"step": 16}, "encoding": encoding, "layer": layers}
    column = {"field": "kind", "type": "nominal", "sort": list(kinds), "title": None}
    return _to_svg({"data": {"values": list(rows)}, "facet": {"column": column}, "spec": spec, "spacing": 10})


def _colour(runs: Sequence[int]) -> Row:
    """The colour of each run; the number and position also identify it, so no legend is needed."""
    colours = [_COLOURS[(run - 1) % SERIES] for run in runs]
    return {"field": "run", "type": "nominal", "scale": {"domain": list(runs), "range": colours}, "legend": None}


def _to_svg(chart: Row, *, height: float | Row | None = None) -> str:
    """The SVG of a Vega-Lite chart. Raises `UserError` if Vega-Lite is not installed."""
    try:
        import vl_convert
    except ImportError as error:
        raise UserError("a report needs the package vl-convert-python: pip install vl-convert-python") from error
    size = {} if height is None else {"width": WIDTH, "height": height, "autosize": {"type": "fit", "contains": "padding"}}
    if isinstance(height, dict):  # the height depends on the number of rows; only the width is fixed
        size["autosize"] = {"type": "fit-x", "contains": "padding"}
    spec = {"$schema": "https://vega.github.io/schema/vega-lite/v5.json", "config": _CONFIG, **size, **chart}
    svg = vl_convert.vegalite_to_svg(spec)
    svg = re.sub("|".join(_VARIABLES), lambda match: _VARIABLES[match[0]], svg)
    return re.sub(r'<(path)( [^>]*aria-label="([^"]*)"[^>]*)/>', r"<\1\2><title>\3</title></\1>", svg)
