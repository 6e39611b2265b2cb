"""The batches of a run over time, by worker, and the number of workers that were busy."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from ..figures import counted, duration
from .charts import Segment, Span, area, axis, bar, colour, figure, lane, legend
from .html import Content, Markup, element, join
from .run_files import RunFiles
from .tables import details, seconds, table

MAX_LANES = 60  # workers of a timeline
MAX_WORKERS = 500  # in the table of workers
STEPS = 240  # of the line of concurrency
GAP = 1 / 2_000  # of the whole time: batches of a worker with a smaller gap are drawn as one
TICKS = 5
START = "epoch_us(started_at) / 1e6"
# the units of a batch that one worker executed in one attempt
SPANS = f"""
SELECT u.position, b.batch, u.ran_on AS worker, min({START}) AS start,
    max({START} + u.seconds) AS stop, count(*) AS units,
    count(*) FILTER (WHERE u.status <> 'ok') AS bad
FROM {{units}} AS u ASOF JOIN batch_firsts AS b
    ON u.position = b.position AND u.unit >= b.first
WHERE u.started_at IS NOT NULL AND u.ran_on IS NOT NULL
GROUP BY u.position, b.batch, u.ran_on, u.attempt ORDER BY start, u.position, b.batch
"""


@dataclass(frozen=True, slots=True)
class Piece:
    """Batches of one model that a worker executed without a pause. start, stop: seconds."""

    position: int
    worker: str
    start: float
    stop: float
    units: int
    bad: int
    batches: int = 1

    def joined(self, later: Piece) -> Piece:
        return Piece(
            self.position,
            self.worker,
            self.start,
            max(self.stop, later.stop),
            self.units + later.units,
            self.bad + later.bad,
            self.batches + later.batches,
        )


@dataclass(frozen=True, slots=True)
class Clock:
    """The time that a timeline shows. first: in seconds since 1970. length: in seconds."""

    first: float
    length: float

    def place(self, moment: float) -> float:
        """Return a moment as a fraction of the whole time."""
        return (moment - self.first) / self.length


def timeline_section(files: RunFiles) -> Markup | None:
    """Return the batches of each worker over time, and the number of busy workers."""
    if not files.collected:
        return None
    spans = files.query(SPANS.format(units=files.units))
    if not spans:
        return element("p", "No unit of this run has a recorded start: there is no timeline.")
    pieces = [
        Piece(s["position"], s["worker"], s["start"], s["stop"], s["units"], s["bad"])
        for s in spans
    ]
    steps = _steps(files)
    first = min([pieces[0].start, *(start for _, start, _ in steps)])
    last = max([*(piece.stop for piece in pieces), *(stop for _, _, stop in steps)])
    clock = Clock(first, max(last - first, 1e-6))
    workers = _by_worker(pieces)
    ticks = [clock.length * i / (TICKS - 1) for i in range(TICKS)]
    names = [(colour(i), name) for i, name in enumerate(files.collected)]
    return join(
        [
            legend([*names, ("bad", "with a unit that is not ok")]),
            figure(
                "Batches by worker",
                _step_lane(steps, clock),
                _lanes(files, workers, clock),
                axis([f"+{duration(tick)}" if tick else "0" for tick in ticks]),
                label=f"Batches: {len(pieces):,}, on {counted(len(workers), 'worker')}, "
                f"in {duration(clock.length)}.",
            ),
            _concurrency(pieces, clock),
            _workers(workers, clock),
        ]
    )


def _by_worker(pieces: Iterable[Piece]) -> dict[str, list[Piece]]:
    """Return the pieces of each worker, the workers in the order of their names."""
    workers: dict[str, list[Piece]] = {}
    for piece in pieces:
        workers.setdefault(piece.worker, []).append(piece)
    return {name: workers[name] for name in sorted(workers, key=_natural)}


def _steps(files: RunFiles) -> list[tuple[str, float, float]]:
    """Return the steps of the record with begin and end, in seconds since 1970."""
    moments = [
        (dt.datetime.fromisoformat(each["at"]).timestamp(), each["step"])
        for each in files.record.history
    ]
    pairs = pairwise(moments)
    return [(step, start, stop) for (start, step), (stop, _) in pairs if step != "new"]


def _step_lane(steps: Sequence[tuple[str, float, float]], clock: Clock) -> Markup:
    kinds = {"work": "calm", "collect": "warn", "prepare": "good"}
    spans = [
        Span(
            clock.place(start),
            clock.place(stop),
            kinds.get(step.partition(" ")[0], "accent"),
            f"{step}: {duration(stop - start)}",
        )
        for step, start, stop in steps
    ]
    return _named_lane("steps", lane(spans))


def _named_lane(name: str, drawn: Markup, *, small: bool = False) -> Markup:
    kind = "row small" if small else "row"
    return element("div", element("span", name, class_="name"), drawn, class_=kind)


def _lanes(files: RunFiles, workers: Mapping[str, list[Piece]], clock: Clock) -> Content:
    """Return a lane for each worker: the first MAX_LANES, in the order of their names."""
    shown = list(workers)[:MAX_LANES]
    return [
        _named_lane(
            _worker_name(name),
            lane([_span(files, piece, clock) for piece in merged(workers[name], clock)]),
            small=len(shown) > 12,
        )
        for name in shown
    ]


def merged(pieces: Iterable[Piece], clock: Clock) -> list[Piece]:
    """Return the pieces of one worker, those with hardly a gap between them as one."""
    found: list[Piece] = []
    for piece in pieces:
        last = found[-1] if found else None
        near = last is not None and piece.start - last.stop <= GAP * clock.length
        if last is not None and near and last.position == piece.position:
            found[-1] = last.joined(piece)
        else:
            found.append(piece)
    return found


def _span(files: RunFiles, piece: Piece, clock: Clock) -> Span:
    batches = f"{piece.batches:,} batches, " if piece.batches > 1 else ""
    bad = f", {piece.bad:,} not ok" if piece.bad else ""
    return Span(
        clock.place(piece.start),
        clock.place(piece.stop),
        colour(piece.position),
        f"{files.collected[piece.position]}: {batches}{counted(piece.units, 'unit')}{bad}, "
        f"{duration(piece.stop - piece.start)}",
        marked=bool(piece.bad),
    )


def _natural(name: str) -> list[tuple[int, str]]:
    """Return a key that sorts numbers inside of names by their value."""
    return [(int(part) if part.isdigit() else -1, part) for part in re.split(r"(\d+)", name)]


def _worker_name(name: str) -> str:
    return f"worker {name}" if name.isdigit() else name


def _concurrency(pieces: Sequence[Piece], clock: Clock) -> Markup:
    """Return the number of workers that execute units, over time."""
    points = busy_workers(pieces, clock)
    label = f"At most {max(points):.1f} workers at a time, {sum(points) / STEPS:.1f} on average."
    return figure(
        "Workers that execute units",
        element("p", label, class_="note"),
        element("div", element("span", class_="name"), area(points, max(points)), class_="row"),
    )


def busy_workers(pieces: Sequence[Piece], clock: Clock) -> list[float]:
    """Return the mean number of busy workers in each of STEPS equal parts of the time."""
    places = np.array([(clock.place(p.start), clock.place(p.stop)) for p in pieces]) * STEPS
    edges = np.arange(STEPS + 1)
    # the work before each edge: of a worker, the part of its time before it
    starts, stops = np.sort(places[:, 0]), np.sort(places[:, 1])
    before = _time_before(starts, edges) - _time_before(stops, edges)
    return [float(each) for each in np.maximum(np.diff(before), 0.0)]


def _time_before(moments: NDArray[np.float64], edges: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return for each edge the sum of its distances to the sorted moments before it."""
    sums = np.concatenate([[0.0], np.cumsum(moments)])
    count = np.searchsorted(moments, edges)
    return np.asarray(count * edges - sums[count], np.float64)


def _workers(workers: Mapping[str, list[Piece]], clock: Clock) -> Markup:
    """Return the work of each worker as a table, those with the most work first."""
    busy = {name: sum(p.stop - p.start for p in pieces) for name, pieces in workers.items()}
    shown = sorted(busy, key=lambda name: -busy[name])[:MAX_WORKERS]
    rows = [
        (
            _worker_name(name),
            bar([Segment(busy[name], "c0")], clock.length),
            len(workers[name]),
            sum(piece.units for piece in workers[name]),
            sum(piece.bad for piece in workers[name]),
            seconds(busy[name]),
        )
        for name in shown
    ]
    heads = ("worker", "of the whole time", "batches", "units", "not ok", "busy")
    notes = []
    if len(workers) > MAX_LANES:
        notes.append(f"The timeline shows {MAX_LANES} of {len(workers):,} workers.")
    if len(workers) > MAX_WORKERS:
        notes.append(f"Left out: {counted(len(workers) - MAX_WORKERS, 'worker')} with less work.")
    title = f"{counted(len(workers), 'worker')} as a table"
    return details(title, table("Workers", heads, rows, " ".join(notes)))
