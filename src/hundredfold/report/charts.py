"""Charts as SVG without scripts: shapes stretch with the page, and every text is HTML.

So they print, follow the colours of the page, and stay readable on a narrow screen. Each chart has
its figures in a table beside it; for screen readers the shapes are hidden or have one label.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .html import Content, Markup, element

WIDTH = 1000.0  # of the coordinates of every chart, which is stretched to the width of its place
COLOURS = 8  # of series: the classes c0 to c7 of the style sheet


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of a bar. kind: a class of the style sheet. start: None for the end of the last."""

    value: float
    kind: str
    name: str = ""
    start: float | None = None


def bar(segments: Sequence[Segment], total: float) -> Markup:
    """Return a horizontal bar of segments, as a share of `total`, to stand in a cell."""
    shapes, at = [], 0.0
    for segment in segments:
        start = at if segment.start is None else segment.start
        shapes.append(_box(start / total, segment.value / total, segment) if total else None)
        at = start + segment.value
    return drawing(shapes, "bar")


def _box(start: float, share: float, segment: Segment) -> Markup | None:
    if share <= 0:
        return None
    width = max(share * WIDTH, 2.0)  # a single row among millions is visible
    left = min(start * WIDTH, WIDTH - width)
    title = element("title", segment.name) if segment.name else None
    return _shape(left, 0, width, 10, segment.kind, title)


def _shape(x: float, y: float, width: float, height: float, kind: str, title: Content) -> Markup:
    place = f'x="{x:.4g}" y="{y:.4g}" width="{width:.4g}" height="{height:.4g}"'
    inner = title if isinstance(title, Markup) else ""
    return Markup(f'<rect class="{kind}" {place}>{inner}</rect>')


def drawing(shapes: Iterable[Content], kind: str, height: float = 10) -> Markup:
    """Return shapes in coordinates of WIDTH by `height`, stretched to the place of the chart."""
    return element(
        "svg",
        shapes,
        class_=kind,
        viewBox=f"0 0 {WIDTH:g} {height:g}",
        preserveAspectRatio="none",
        aria_hidden="true",
        focusable="false",
    )


def histogram(counts: Sequence[int], kind: str = "c0") -> Markup:
    """Return vertical bars, without axes."""
    most, width = max(counts, default=0), WIDTH / max(len(counts), 1)
    shapes = [
        _shape(
            i * width,
            100 - (height := max(100 * count / most, 1.5)),
            width * 0.94,
            height,
            kind,
            None,
        )
        for i, count in enumerate(counts)
        if count
    ]
    return drawing(shapes, "histogram", 100)


def area(points: Sequence[float], most: float, kind: str = "c0") -> Markup:
    """Return a line of steps with its area, from equally long steps."""
    if not points or most <= 0:
        return drawing([], "area", 100)
    width = WIDTH / len(points)
    path = "".join(
        f"V{100 - 96 * value / most:.4g}H{(i + 1) * width:.5g}" for i, value in enumerate(points)
    )
    return drawing(
        [
            element(
                "path",
                d=f"M0 100{path}V100Z",
                class_=f"{kind} filled",
                vector_effect="non-scaling-stroke",
            )
        ],
        "area",
        100,
    )


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of a lane: from and to as fractions of the whole time."""

    start: float
    end: float
    kind: str
    name: str
    marked: bool = False


def lane(spans: Iterable[Span], kind: str = "lane") -> Markup:
    """Return the pieces of time of one worker; marked pieces have a second line in red."""
    shapes: list[Markup] = []
    for span in spans:
        left, width = span.start * WIDTH, max((span.end - span.start) * WIDTH, 0.8)
        left = min(left, WIDTH - width)
        shapes.append(_shape(left, 0, width, 10, span.kind, element("title", span.name)))
        if span.marked:
            shapes.append(_shape(left, 7.5, width, 2.5, "bad", element("title", span.name)))
    return drawing(shapes, kind)


def axis(labels: Sequence[str]) -> Markup:
    """Return the labels of an axis, spread evenly from its begin to its end."""
    return element(
        "div", [element("span", text) for text in labels], class_="axis", aria_hidden="true"
    )


def figure(caption: str, *content: Content, label: str = "") -> Markup:
    """Return a chart with its caption. label: its content in a sentence, for screen readers."""
    hidden = element("span", label, class_="hidden") if label else None
    return element("figure", element("figcaption", caption, hidden), *content)


def legend(entries: Iterable[tuple[str, str]]) -> Markup:
    """Return the names of the colours: pairs of a class and a name."""
    return element(
        "ul",
        [element("li", element("span", class_=f"swatch {kind}"), name) for kind, name in entries],
        class_="legend",
    )


def colour(number: int) -> str:
    """Return the class of a series by its number."""
    return f"c{number % COLOURS}"
