"""What a stack can be told, as one value of plain words, checked before anything is built.

No CDK in here: `hundredfold deploy` checks what it was told before it starts Node, and hands it on
as JSON.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypedDict

from ...errors import UsageError
from ...job import NAME
from ..lambda_platform import MACHINES, PYTHON, PYTHONS

TOKEN = r"\$\{Token\[[^\]]+\]\}"  # a name that CloudFormation will know: a team's app may give one
REF = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
LOCATION = re.compile(
    rf"s3://(?P<bucket>[a-z0-9][a-z0-9.-]{{1,61}}[a-z0-9]|{TOKEN})(?:/(?P<prefix>[^*?]*))?"
)
TABLE = re.compile(r"glue://(?P<database>[a-z0-9_-]+)/(?P<table>[a-z0-9_-]+)")
PREFIX = re.compile(r"[a-z][a-z0-9-]{0,38}[a-z0-9]")
TOPIC = re.compile(rf"arn:[a-z-]+:sns:[^:]*:[^:]*:.+|{TOKEN}")
LAYER = re.compile(rf"arn:[a-z-]+:lambda:[^:]*:[^:]*:layer:[^:]+:\d+|{TOKEN}")
KEY = re.compile(rf"arn:[a-z-]+:kms:[^:]*:[^:]*:key/.+|{TOKEN}")

# the variable that names the file by which `hundredfold deploy` tells the app what to make
TOLD = "HUNDREDFOLD_STACK_FILE"
OURS = (
    "Hundredfold: the job "  # so begins the description of a stack that `hundredfold deploy` made
)
WORKERS = 100  # at once, where nothing else is said
EACH_POLLER = 10  # so many workers can one provisioned poller keep busy


@dataclass(frozen=True, slots=True)
class Location:
    """A place in S3: a bucket, and the prefix of the keys that are meant ("" is all of them)."""

    bucket: str
    prefix: str

    @classmethod
    def parse(cls, text: str) -> Location:
        """From s3://bucket/prefix; ValueError for anything else."""
        found = LOCATION.fullmatch(text)
        if found is None:
            raise ValueError(text)
        return cls(found["bucket"], found["prefix"] or "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """One stack, as its owner wants it.

    `job`             module:attribute of the job, importable where the stack is synthesized and in
                      the package alike
    `memory`          of a worker, in MB (128 to 10240); 1769 MB come with one whole vCPU
    `timeout`         of a worker, in seconds (30 to 900). A worker that dies hard is missed for six
                      times as long
    `batch_size`      messages that one call of a worker takes (1 to 10000)
    `concurrency`     workers at once, at most (2 to 1000); 100 where neither this nor `pollers` is
                      given
    `pollers`         instead of it: (least, most) provisioned pollers (2 to 200, 2 to 10000), each
                      good for 10 workers.
                      They start faster, and the least of them cost money by the hour
    `max_receives`    so often is a message handed out before it is dead (1 to 1000)
    `architecture`    arm64 or x86_64
    `python`          of the functions
    `trigger`         "messages": a message for each batch, longest first; "events": S3 tells of
                      each batch as it is written
    `sources`         further places to read from: "s3://bucket/prefix/", or "glue://database/table"
                      together with the place of
                      its files; the stack's own bucket is always read
    `source_keys`     ARNs of the KMS keys that those places are encrypted with
    `start_on_upload` names of sources: a file that is uploaded below sources/NAME/ of the stack's
                      bucket starts a run with that
                      file as the source NAME; or {NAME: "s3://bucket/prefix/"}, places of buckets
                      that send their events to
                      EventBridge; True is every source of the job
    `keep_days`       so long are batches, query results and replaced objects kept; releases and
                      runs stay
    `log_days`        so long are logs kept
    `overdue`         seconds that a message may go undone before the alarm
    `scan_limit`      bytes that one query may scan (from 10 MB) before Athena cancels it
    `alarm_topic`     ARN of the SNS topic that alarms are sent to
    `name_prefix`     begins every name, where a house has rules for names; without it
                      CloudFormation makes them up
    `tracing`         X-Ray for the functions and the state machine
    `layers`          ARNs of Lambda layers, for what the package was made without
    """

    job: str
    memory: int = 1769
    timeout: int = 300
    batch_size: int = 1
    concurrency: int | None = None
    pollers: tuple[int, int] | None = None
    max_receives: int = 5
    architecture: str = "arm64"
    python: str = PYTHON
    trigger: str = "messages"
    sources: tuple[str, ...] = ()
    source_keys: tuple[str, ...] = ()
    start_on_upload: bool | Sequence[str] | Mapping[str, str] = False
    keep_days: int = 7
    log_days: int = 30
    overdue: int = 7200
    scan_limit: int | None = None
    alarm_topic: str | None = None
    name_prefix: str | None = None
    tracing: bool = True
    layers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """UsageError names everything that is wrong with them."""
        for name in ("sources", "source_keys", "layers"):
            object.__setattr__(self, name, _texts(getattr(self, name)))
        if self.pollers is not None:
            object.__setattr__(self, "pollers", tuple(self.pollers))
        if not isinstance(self.start_on_upload, bool | Mapping):
            object.__setattr__(self, "start_on_upload", _texts(self.start_on_upload))
        wrong = [*_numbers(self), *_words(self), *_places(self)]
        if wrong:
            raise UsageError(
                "the stack cannot be made as told",
                problems=wrong,
                hint="hundredfold deploy --help tells what each can be",
            )

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Settings:
        """From JSON or keywords; UsageError for a name that there is not."""
        known = [f.name for f in fields(cls)]
        unknown = sorted(set(told) - set(known))
        if unknown:
            raise UsageError(
                f"a stack cannot be told {', '.join(unknown)}",
                hint=f"it can be told {', '.join(known)}",
            )
        return cls(**told)

    @property
    def workers(self) -> int:
        """So many workers can be at work at once."""
        return self.pollers[1] * EACH_POLLER if self.pollers else self.concurrency or WORKERS

    @property
    def window(self) -> int:
        """Seconds in which a batch of messages is gathered: Lambda wants one from eleven messages
        on.
        """
        return 1 if self.batch_size > 10 else 0

    @property
    def visibility(self) -> int:
        """Seconds that a message handed out stays hidden: six times the timeout, as AWS advises, so
        that a throttled call is tried again within the lease.
        """
        return 6 * self.timeout + self.window

    @property
    def locations(self) -> list[Location]:
        """The places in S3."""
        return [Location.parse(text) for text in self.sources if not TABLE.fullmatch(text)]

    @property
    def tables(self) -> list[tuple[str, str]]:
        """The tables in Glue: (database, table)."""
        return [
            (found["database"], found["table"])
            for found in map(TABLE.fullmatch, self.sources)
            if found
        ]

    def uploads(self, sources: Iterable[str], bucket: str) -> dict[str, Location]:
        """Where an upload starts a run: for each source its place, below the stack's own bucket
        where no other is named. UsageError for a source that is not among the job's `sources`.
        """
        known = list(sources)
        named = (
            list(self.start_on_upload)
            if not isinstance(self.start_on_upload, bool)
            else known
            if self.start_on_upload
            else []
        )
        unknown = sorted(set(named) - set(known))
        if unknown:
            raise UsageError(
                f"start_on_upload names {', '.join(unknown)}; the job has the sources "
                f"{', '.join(known)}"
            )
        if isinstance(self.start_on_upload, Mapping):
            return self.watched
        return {name: Location(bucket, f"sources/{name}/") for name in named}

    @property
    def watched(self) -> dict[str, Location]:
        """The places outside of the stack's bucket whose uploads start runs."""
        told = self.start_on_upload
        return (
            {name: Location.parse(text) for name, text in told.items()}
            if isinstance(told, Mapping)
            else {}
        )


class Choices(TypedDict, total=False):
    """What the construct can be told beside the job: the names of Settings' fields, for those who
    check types.
    """

    memory: int
    timeout: int
    batch_size: int
    concurrency: int | None
    pollers: tuple[int, int] | None
    max_receives: int
    architecture: str
    python: str
    trigger: str
    sources: tuple[str, ...]
    source_keys: tuple[str, ...]
    start_on_upload: bool | Sequence[str] | Mapping[str, str]
    keep_days: int
    log_days: int
    overdue: int
    scan_limit: int | None
    alarm_topic: str | None
    name_prefix: str | None
    tracing: bool
    layers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a number may be."""

    name: str
    least: int
    most: int
    unit: str = ""

    def wrong(self, value: object) -> Iterator[str]:
        if (
            isinstance(value, int)
            and not isinstance(value, bool)
            and self.least <= value <= self.most
        ):
            return
        yield f"{self.name} is {value!r}, wanted {self.least:,} to {self.most:,}{self.unit}"


BOUNDS = (
    Bounds("memory", 128, 10_240, " MB"),
    Bounds("timeout", 30, 900, " seconds"),
    Bounds("batch_size", 1, 10_000, " messages"),
    Bounds("max_receives", 1, 1000),
    Bounds("keep_days", 1, 3650, " days"),
    Bounds("overdue", 60, 86_400, " seconds"),
)
CONCURRENCY = Bounds("concurrency", 2, 1000, " workers")
LEAST_POLLERS = Bounds("pollers' first", 2, 200)
MOST_POLLERS = Bounds("pollers' second", 2, 10_000)
SCANNED = Bounds("scan_limit", 10_000_000, 2**53, " bytes")
LOG_DAYS = (
    1,
    3,
    5,
    7,
    14,
    30,
    60,
    90,
    120,
    150,
    180,
    365,
    400,
    545,
    731,
    1096,
    1827,
    2192,
    2557,
    2922,
    3288,
    3653,
)  # CloudWatch's own


def _numbers(told: Settings) -> Iterator[str]:
    for bounds in BOUNDS:
        yield from bounds.wrong(getattr(told, bounds.name))
    if told.log_days not in LOG_DAYS:
        yield f"log_days is {told.log_days!r}, wanted one of {', '.join(map(str, LOG_DAYS))}"
    if told.concurrency is not None:
        yield from CONCURRENCY.wrong(told.concurrency)
    if told.scan_limit is not None:
        yield from SCANNED.wrong(told.scan_limit)
    yield from _pollers(told)


def _pollers(told: Settings) -> Iterator[str]:
    if told.pollers is None:
        return
    if told.concurrency is not None:
        yield (
            "concurrency and pollers are both given; Lambda takes one of them: pollers set the "
            "concurrency, 10 workers each"
        )
    if len(told.pollers) != 2:
        yield (
            f"pollers is {told.pollers!r}, wanted two numbers, the least and the most, such as "
            "(2, 50)"
        )
        return
    least, most = told.pollers
    yield from LEAST_POLLERS.wrong(least)
    yield from MOST_POLLERS.wrong(most)
    if isinstance(least, int) and isinstance(most, int) and least > most:
        yield f"pollers is {told.pollers!r}: the least is more than the most"


def _words(told: Settings) -> Iterator[str]:
    yield from _one_of("architecture", told.architecture, tuple(MACHINES))
    yield from _one_of("python", told.python, PYTHONS)
    yield from _one_of("trigger", told.trigger, ("messages", "events"))
    yield from _like("job", told.job, REF, "module:attribute, such as tariffs.job:job")
    yield from _like(
        "name_prefix",
        told.name_prefix,
        PREFIX,
        "2 to 40 lower-case letters, digits and -, beginning with a letter",
    )
    yield from _like("alarm_topic", told.alarm_topic, TOPIC, "the ARN of an SNS topic")
    if not isinstance(told.tracing, bool):
        yield f"tracing is {told.tracing!r}, wanted True or False"


def _places(told: Settings) -> Iterator[str]:
    uploads = told.start_on_upload
    for text in told.sources:
        if not (isinstance(text, str) and TABLE.fullmatch(text)):
            yield from _like(
                "a source",
                text,
                LOCATION,
                "s3://bucket/prefix/ (without * and ?) or glue://database/table",
            )
    for text in uploads.values() if isinstance(uploads, Mapping) else ():
        yield from _like(
            "a place in start_on_upload", text, LOCATION, "s3://bucket/prefix/, without * and ?"
        )
    for name in uploads if not isinstance(uploads, bool) else ():
        yield from _like(
            "a name in start_on_upload", name, NAME, "the name of one of the job's sources"
        )
    for text in told.layers:
        yield from _like("a layer", text, LAYER, "the ARN of a layer's version")
    for text in told.source_keys:
        yield from _like("a source's key", text, KEY, "the ARN of a KMS key")


def _one_of(name: str, value: object, wanted: tuple[str, ...]) -> Iterator[str]:
    if value not in wanted:
        yield f"{name} is {value!r}, wanted {' or '.join(wanted)}"


def _like(name: str, value: object, wanted: re.Pattern[str], words: str) -> Iterator[str]:
    if value is not None and not (isinstance(value, str) and wanted.fullmatch(value)):
        yield f"{name} is {value!r}, wanted {words}"


def _texts(value: Any) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)
