"""The nouns: Job, Source, Model, Publish; Message and Batch; and Run, which knows where each file of a run lies."""

from __future__ import annotations

import codecs
import inspect
import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from ._package import FOLDER
from .annotations import annotations_of, is_async, signature_of
from .errors import JobError

NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
RESERVED = frozenset({"run", "rows", "units"})


@dataclass(frozen=True)
class Csv:
    """How the CSV files of a source are written, where that is not what is decided from their first lines.

    `delimiter`   one character; by default the one of , ; tab | that splits the header
    `quote`       one character; None: no value is quoted
    `encoding`    such as "latin-1"; by default UTF-8, or what the file's byte-order mark says
    `decimal`     "." or ",": the decimal sign of numbers
    `null`        the text that means null where it is not quoted, or several; "" is an empty value, quoted or not
    `header`      True: the first line names the columns; a tuple: the file has no such line, and these are the names;
                  False: no such line, and the names are the contract's, in its order, or column0, column1, ...
    `skip`        lines above the header (or above the rows, where there is no header)
    `multiline`   whether a quoted value may run over several lines; by default it may, unless its lines look like rows
    """

    delimiter: str | None = None
    quote: str | None = '"'
    encoding: str | None = None
    decimal: str = "."
    null: str | Sequence[str] = ""
    header: bool | Sequence[str] = True
    skip: int = 0
    multiline: bool | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "null", (self.null,) if isinstance(self.null, str) else self.null)
        if not isinstance(self.header, bool):
            _tuples(self, "header")
        if not isinstance(self.null, Iterable) or not all(
            isinstance(text, str) for text in self.null
        ):
            raise JobError(
                f"null is {self.null!r}, wanted a text or several",
                hint='such as Csv(null=("", "NA"))',
            )
        object.__setattr__(self, "null", tuple(dict.fromkeys(self.null)))
        problems = [
            *_no_sign("delimiter", self.delimiter),
            *_no_sign("quote", self.quote),
            *(
                []
                if self.decimal in (".", ",")
                else [f"decimal is {self.decimal!r}, wanted '.' or ','"]
            ),
            *(
                []
                if self.encoding is None or _is_codec(self.encoding)
                else [f"encoding {self.encoding!r} is not known to Python"]
            ),
            *(
                []
                if _is_count(self.skip)
                else [f"skip is {self.skip!r}, wanted a number of lines, 0 or more"]
            ),
            *(
                []
                if self.multiline in (None, True, False)
                else [f"multiline is {self.multiline!r}, wanted True, False or None"]
            ),
        ]
        if self.delimiter is not None and self.delimiter == self.quote:
            problems.append(f"delimiter and quote are both {self.quote!r}")
        if self.header == ():
            problems.append("header names no column, wanted True, False or the names")
        if problems:
            raise JobError(
                "Csv(...) cannot be used",
                problems=problems,
                hint='such as Csv(delimiter=";", encoding="latin-1", decimal=",")',
            )


def _no_sign(name: str, value: Any) -> list[str]:
    """What is wrong with a delimiter or a quote."""
    fine = value is None or (
        isinstance(value, str) and len(value) == 1 and value.isascii() and value not in "\r\n\0"
    )
    return [] if fine else [f"{name} is {value!r}, wanted one ASCII character"]


def _is_codec(name: Any) -> bool:
    try:
        return bool(codecs.lookup(name)._is_text_encoding)
    except (LookupError, TypeError, ValueError):
        return False


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


@dataclass(frozen=True)
class Source:
    """Rows that come in, and what must be true of them.

    `contract`    a dataclass or pydantic model: its fields are the columns; `Annotated[float, Gt(0)]`, `Literal[...]`, an
                  Enum, `re.compile(...)` and `X | None` say what a value may be; a dataclass field with the default None may
                  be missing from the files, and is null then
    `path`        where the rows are if the run names no other place: a file, a glob or a folder (relative to the job's file)
    `unique`      these columns name a row. Exact copies are kept once; of rows that differ, the one with the greatest
                  `latest` wins, or, without `latest` (or in a tie), all of them are rejected
    `references`  {"product": "catalog.product"}: the value must be there in that source
    `not_future`  date columns that may not lie after the run's `as_of`
    `clean`       {"price": "replace(price, ',', '.')"}: SQL that repairs a column before it is checked
    `max_rejected` so many rows (int) or such a share of them (float, 0.0 to 1.0) may be rejected; beyond that the run stops
    `max_replaced` so many rows (int) or such a share of them (float) may be superseded by later ones (`latest`); beyond that the
                  run stops: a key that names several rows which are no restatements loses data. The default allows all
    `csv`         a Csv(...): how its CSV files are written; Parquet, JSON and tables in memory are not concerned
    """

    name: str
    contract: type | None = None
    path: str | None = None
    unique: Sequence[str] = ()
    latest: str | None = None
    references: Mapping[str, str] = field(default_factory=dict)
    not_future: Sequence[str] = ()
    clean: Mapping[str, str] = field(default_factory=dict)
    max_rejected: int | float = 0
    csv: Csv = Csv()
    max_replaced: int | float = 1.0

    def __post_init__(self) -> None:
        _name("source", self.name)
        _tuples(self, "unique", "not_future")
        if not isinstance(self.csv, Csv):
            raise JobError(
                f"source {self.name}: csv is {self.csv!r}, wanted Csv(...)",
                hint='such as csv=Csv(delimiter=";")',
            )
        if self.contract is not None and not isinstance(self.contract, type):
            raise JobError(
                f"source {self.name}: contract is {self.contract!r}, wanted a dataclass or a pydantic model (the class itself)"
            )
        if not isinstance(self.references, Mapping) or not isinstance(self.clean, Mapping):
            raise JobError(
                f"source {self.name}: references and clean are mappings of a column to a text",
                hint='such as references={"product": "catalog.product"}',
            )
        bad = [
            f"{column} -> {target!r}"
            for column, target in self.references.items()
            if target.count(".") != 1
        ]
        if bad:
            raise JobError(
                f"source {self.name}: references must name source.column",
                problems=bad,
                hint='write {"product": "catalog.product"}',
            )
        check_limit(f"source {self.name}: max_rejected", self.max_rejected)
        check_limit(f"source {self.name}: max_replaced", self.max_replaced)


@dataclass(frozen=True)
class Model:
    """One question asked of every unit: a query, the key that tells units apart, and the function that answers.

    `work(rows, ...)` is given the rows of one unit in the form that its first annotation asks for (pandas.DataFrame,
    polars.DataFrame, pyarrow.Table, or a light mapping of NumPy arrays), and the results of earlier models by the names of
    its other parameters. With `batched` it is given all units of a batch at once (`rows.offsets`, `rows.keys`).

    `unit`        the columns that name a unit; () is one unit: all rows
    `query`       SQL text, or the path of a .sql file beside the job; without it the job's only source. Beside sources and
                  earlier models it can read one row named `run`: run_id, job, as_of
    `order_by`    columns that order the rows inside a unit
    `inputs`      the earlier models whose results `work` takes; without it, its further parameters
    `returns`     the contract of a result row where the return annotation does not say it
    `time_limit`  seconds that one unit may take
    `max_units_per_worker`  how many units a worker process does before a fresh one takes its place, for a function whose library
                  leaks (memory, open files, threads). Without it a worker is replaced when its memory has grown towards its share
    """

    name: str
    unit: Sequence[str]
    work: Callable[..., Any]
    query: str | None = None
    order_by: Sequence[str] = ()
    inputs: Sequence[str] | None = None
    batched: bool = False
    returns: Any = None
    time_limit: float | None = None
    max_units_per_worker: int | None = None

    def __post_init__(self) -> None:
        _name("model", self.name)
        _tuples(self, "unit", "order_by")
        if not callable(self.work):
            raise JobError(f"model {self.name}: work is {self.work!r}, wanted a function")
        if is_async(self.work):
            raise JobError(
                f"model {self.name}: its function is asynchronous, and would return a coroutine in place of a result",
                hint="write `def` in place of `async def`; units run in parallel in processes of their own",
            )
        further, more = _further_parameters(self.name, self.work)
        if self.inputs is None:
            object.__setattr__(
                self, "inputs", tuple(p.name for p in further if p.default is p.empty)
            )
        _tuples(self, "inputs")
        missing = [
            name for name in self.inputs or () if name not in {p.name for p in further} and not more
        ]
        if missing:
            raise JobError(
                f"model {self.name}: its function takes no parameter named {', '.join(missing)}",
                hint="name the parameter after the model",
            )
        if self.query is not None and not isinstance(self.query, str):
            object.__setattr__(self, "query", str(self.query))
        _refuse_blank(
            f"model {self.name}",
            self.query,
            "leave query out for all rows of the job's only source",
        )
        if not isinstance(self.batched, bool):
            raise JobError(f"model {self.name}: batched is {self.batched!r}, wanted True or False")
        number = isinstance(self.time_limit, int | float) and not isinstance(self.time_limit, bool)
        if self.time_limit is not None and not (number and self.time_limit > 0):
            raise JobError(
                f"model {self.name}: time_limit is {self.time_limit!r}, wanted seconds above 0, or None"
            )
        most = self.max_units_per_worker
        if most is not None and (isinstance(most, bool) or not isinstance(most, int) or most < 1):
            raise JobError(
                f"model {self.name}: max_units_per_worker is {most!r}, wanted a whole number of 1 or more, or None"
            )

    @cached_property
    def annotations(self) -> Mapping[str, Any]:
        """Each parameter of the function, and `return` last, with its annotation; None without one, a text where it cannot be evaluated.

        It travels with the model: in another process, the names that a text needs can be missing.
        """
        return annotations_of(self.work)


@dataclass(frozen=True)
class Publish:
    """What the system downstream is given: a query over the models' results and the sources, as files of a release.

    The row named `run` has two more columns here: table_version, parent_version.

    `summaries`: {"Ten largest moves": "queries/moves.sql"}: small queries over what is published, by its name, whose rows
    are kept with the release and shown to the person at the end of the run.
    """

    name: str
    query: str
    contract: type | None = None
    formats: Sequence[str] = ("parquet",)
    summaries: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _name("publish", self.name)
        _tuples(self, "formats")
        for query in (self.query, *self.summaries.values()):
            _refuse_blank(f"publish {self.name}", query, "such as SELECT * FROM prices")
        unknown = sorted(set(self.formats) - {"csv", "parquet", "jsonl"})
        if unknown or not self.formats:
            raise JobError(
                f"publish {self.name}: formats {unknown or '()'} are not among csv, parquet, jsonl"
            )


@dataclass(frozen=True)
class Job:
    """What the user declares: sources, models in the order in which they build on one another, and what is published.

    `max_failed`: so many units (int), or such a share (float, 0.0 to 1.0), may fail before publication is held back.
    """

    name: str
    sources: Sequence[Source]
    models: Sequence[Model]
    publish: Publish | Sequence[Publish] = ()
    max_failed: int | float = 0
    folder: Path | None = (
        None  # what paths are relative to; found from the file that declares the job
    )

    def __post_init__(self) -> None:
        _name("job", self.name)
        for attribute, kind in (("sources", Source), ("models", Model), ("publish", Publish)):
            _parts(self, attribute, kind)
        object.__setattr__(
            self, "folder", Path(self.folder) if self.folder else _declaring_folder()
        )
        check_limit(f"job {self.name}: max_failed", self.max_failed)
        _check_names(self)

    @property
    def releases(self) -> tuple[Publish, ...]:
        return tuple(self.publish)  # type: ignore[arg-type]  # __post_init__ made it a tuple

    def model(self, name: str) -> Model:
        """The model of that name; JobError if there is none."""
        found = next((model for model in self.models if model.name == name), None)
        if found is None:
            raise JobError(
                f"job {self.name} has no model {name!r}; it has {', '.join(model.name for model in self.models)}"
            )
        return found

    def source(self, name: str) -> Source:
        """The source of that name; JobError if there is none."""
        found = next((source for source in self.sources if source.name == name), None)
        if found is None:
            raise JobError(
                f"job {self.name} has no source {name!r}; it has {', '.join(source.name for source in self.sources)}"
            )
        return found


@dataclass(frozen=True, slots=True)
class Batch:
    """One stored object with many whole units: numbers `first` to `last` of the model's units in the order of their keys."""

    number: int
    first: int
    last: int
    rows: int
    cost: float
    cuts: tuple[
        int, ...
    ] = ()  # first units of further parts, where all of it is too large for a worker at once


@dataclass(frozen=True, slots=True, order=True)
class Message:
    """Please do units first..last of this batch. `attempt` 1 is the run's own, each retry is one more."""

    run: str
    model: str
    batch: int
    first: int
    last: int
    attempt: int = 1

    def __str__(self) -> str:
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def parse(cls, text: str) -> Message:
        """The message in a queue's text; ValueError if it was not made by str()."""
        fields = json.loads(text)
        if not isinstance(fields, dict) or set(fields) != set(cls.__slots__):
            raise ValueError(f"not a message: {text[:200]}")
        return cls(**fields)

    @property
    def units(self) -> int:
        return self.last - self.first + 1

    def part(self, first: int, last: int) -> Message:
        return Message(self.run, self.model, self.batch, first, last, self.attempt)


@dataclass(frozen=True, slots=True)
class Layout:
    """Where each file of a run lies: keys in the store. The only place that knows."""

    run: str

    @property
    def root(self) -> str:
        return f"runs/{self.run}"

    def job(self) -> str:
        return f"{self.root}/job.pickle"

    def code(self, fingerprint: str) -> str:
        return f"{self.root}/code/{fingerprint}.zip"

    def staged(self, source: str) -> str:
        return f"{self.root}/staged/{source}.parquet"

    def rejects(self, source: str) -> str:
        return f"{self.root}/rejects/{source}.parquet"

    def repairs(self, source: str) -> str:
        return f"{self.root}/repairs/{source}.parquet"

    def validation_result(self) -> str:
        return f"{self.root}/verdict.json"

    def source_validation_result(self, source: str) -> str:
        return f"{self.root}/verdicts/{source}.json"

    def model(self, model: str) -> str:
        return f"{self.root}/models/{model}"

    def manifest(self, model: str) -> str:
        return f"{self.model(model)}/manifest.json"

    def manifest_draft(self, model: str) -> str:
        return f"{self.model(model)}/draft.json"

    def units(self, model: str) -> str:
        return f"{self.model(model)}/units.arrow"

    def batch(self, model: str, number: int) -> str:
        return f"{self.model(model)}/batches/{number:06d}.arrow"

    def outcomes(self, model: str) -> str:
        return f"{self.model(model)}/outcomes"

    def outcome(self, message: Message, part: str) -> str:
        """`part` is 'results' or 'ledger'; the ledger, written last, is the commit."""
        return f"{self.outcomes(message.model)}/{message.attempt:03d}-{message.batch:06d}-{message.first:010d}-{message.last:010d}.{part}.arrow"

    def parse_outcome_key(self, key: str) -> Message | None:
        """The slice that a committed outcome covers, from its key; None for anything else."""
        found = re.fullmatch(
            r"runs/([^/]+)/models/([^/]+)/outcomes/(\d+)-(\d+)-(\d+)-(\d+)\.ledger\.arrow", key
        )
        if found is None:
            return None
        run, model, attempt, batch, first, last = found.groups()
        return Message(run, model, int(batch), int(first), int(last), int(attempt))

    def results(self, model: str) -> str:
        return f"{self.model(model)}/results.parquet"

    def accounts(self, model: str) -> str:
        return f"{self.model(model)}/units.parquet"

    def collected(self, model: str) -> str:
        return f"{self.model(model)}/collected.json"


def releases_of(job: str) -> str:
    return f"releases/{job}"


def _name(kind: str, name: str) -> None:
    if not isinstance(name, str) or not NAME.fullmatch(name) or name in RESERVED:
        raise JobError(
            f"{kind} name {name!r} cannot be used",
            problems=(
                f"wanted: a lower-case letter, then letters, digits and _ (at most 63), and none of {', '.join(sorted(RESERVED))}",
            ),
            hint="the name becomes a table in SQL and a folder on disk",
        )


def _tuples(thing: object, *attributes: str) -> None:
    for attribute in attributes:
        value = getattr(thing, attribute)
        if isinstance(value, str):
            raise JobError(
                f"{attribute} is the text {value!r}, wanted a tuple of names",
                hint=f"write {attribute}=({value!r},)",
            )
        if not isinstance(value, Iterable) or not all(isinstance(name, str) for name in value):
            raise JobError(f"{attribute} is {value!r}, wanted a tuple of names")
        names = tuple(value)
        if len(set(names)) < len(names):
            raise JobError(f"{attribute} names a column twice: {', '.join(names)}")
        object.__setattr__(thing, attribute, names)


def _refuse_blank(what: str, query: Any, hint: str) -> None:
    if isinstance(query, str) and (not query.strip() or "\0" in query):
        raise JobError(
            f"{what}: its query is {query!r}, wanted SQL, or the name of a .sql file", hint=hint
        )


def _parts(job: Job, attribute: str, kind: type) -> None:
    """One part or several, as a tuple of `kind`."""
    value = getattr(job, attribute)
    parts = (
        (value,)
        if isinstance(value, kind)
        else tuple(value)
        if isinstance(value, Iterable) and not isinstance(value, str)
        else (value,)
    )
    wrong = [repr(part)[:80] for part in parts if not isinstance(part, kind)]
    if wrong:
        raise JobError(
            f"job {job.name}: {attribute} holds {', '.join(wrong)}, wanted {kind.__name__}(...)"
        )
    object.__setattr__(job, attribute, parts)


def check_limit(what: str, limit: object) -> None:
    if (
        isinstance(limit, bool)
        or not isinstance(limit, int | float)
        or not limit >= 0
        or (isinstance(limit, float) and limit > 1)
    ):
        raise JobError(
            f"{what} is {limit!r}, wanted a count (int, 0 or more) or a share (float, 0.0 to 1.0)"
        )


def allowed(limit: float, total: int) -> int:
    """How many of `total` a limit allows: a count stays, a share is taken of the total."""
    return limit if isinstance(limit, int) else int(limit * total)


def _further_parameters(
    model: str, work: Callable[..., Any]
) -> tuple[list[inspect.Parameter], bool]:
    """Return the parameters after the first, which takes the rows, and whether any other name is taken too."""
    try:
        parameters = list(signature_of(work).parameters.values())
    except (TypeError, ValueError) as error:
        raise JobError(
            f"model {model}: the signature of {work!r} cannot be read ({error})"
        ) from error
    named = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if not named:
        raise JobError(
            f"model {model}: its function takes no parameter, wanted one for the unit's rows",
            hint="write def price(rows): ...; a decorator keeps the parameters with @functools.wraps(function)",
        )
    nameless = [p.name for p in named[1:] if p.kind is p.POSITIONAL_ONLY and p.default is p.empty]
    if nameless:
        raise JobError(
            f"model {model}: its function takes {', '.join(nameless)} by position only, and results of earlier models are given by name",
            hint="take out the / after the parameter, or give it a default",
        )
    further = [p for p in named[1:] if p.kind is p.POSITIONAL_OR_KEYWORD] + [
        p for p in parameters if p.kind is p.KEYWORD_ONLY
    ]
    return further, any(p.kind is p.VAR_KEYWORD for p in parameters)


def _declaring_folder() -> Path:
    """The folder of the file in which the job is being declared: the first frame that is neither ours nor generated."""
    frame = sys._getframe(1)
    while frame is not None and (
        frame.f_code.co_filename.startswith((FOLDER, "<"))
        or "dataclasses" in frame.f_code.co_filename
    ):
        frame = frame.f_back  # type: ignore[assignment]
    place = Path(frame.f_code.co_filename).parent if frame is not None else Path()
    return place.resolve() if place.is_dir() else Path.cwd()


def _check_names(job: Job) -> None:
    names = (
        [source.name for source in job.sources]
        + [model.name for model in job.models]
        + [output.name for output in job.releases]
    )
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise JobError(
            f"job {job.name}: the name {', '.join(twice)} is used twice; sources, models and what is published share one set of names"
        )
    if not job.sources:
        raise JobError(f"job {job.name} has no source", hint='add sources=[Source("sales")]')
    if not job.models:
        raise JobError(
            f"job {job.name} has no model",
            hint='add models=[Model("prices", unit=("shop",), work=price)]',
        )
    for position, model in enumerate(job.models):
        earlier = [m.name for m in job.models[:position]]
        unknown = [name for name in model.inputs or () if name not in earlier]
        if unknown:
            raise JobError(
                f"model {model.name} takes {', '.join(unknown)} as inputs, which is no model before it",
                hint=f"before it are: {', '.join(earlier) or 'none'}; a parameter that is not an earlier model needs a default",
            )
        if model.query is None and len(job.sources) > 1:
            raise JobError(
                f"model {model.name} has no query, and the job has {len(job.sources)} sources to choose from",
                hint='query="SELECT * FROM ..."',
            )
    known = {source.name for source in job.sources}
    dangling = [
        f"{s.name}.{c} -> {t}"
        for s in job.sources
        for c, t in s.references.items()
        if t.split(".")[0] not in known
    ]
    if dangling:
        raise JobError(
            f"job {job.name}: references to a source that the job does not have", problems=dangling
        )
