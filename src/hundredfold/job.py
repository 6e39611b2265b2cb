"""The declarations of a job: Job, Source, Model, Publish and Csv."""

from __future__ import annotations

import codecs
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from ._package import FOLDER
from .annotations import annotations_of, is_async, signature_of
from .errors import JobError
from .release_tables import DynamoDB

NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
RESERVED_NAMES = frozenset({"run", "rows", "units"})


@dataclass(frozen=True)
class Csv:
    """The dialect of a source's CSV files, if it differs from the one that is detected.

    `delimiter`   one character; by default the one of , ; tab | that splits the header
    `quote`       one character; None: no value is quoted
    `encoding`    such as "latin-1"; by default UTF-8, or the encoding of the byte-order mark
    `decimal`     "." or ",": the decimal sign of numbers
    `null`        one text or several that mean null when unquoted; "" is an empty value, quoted or
                  not
    `header`      True: the first line has the names of the columns. A tuple: the file has no
                  header, and these are the names. False: the file has no header, and the names are
                  those of the contract, in its order, or column0, column1, ...
    `skip`        number of lines above the header (above the rows, without a header)
    `multiline`   whether a quoted value can extend over several lines; by default it can, unless
                  its lines look like rows
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
                f"null is {self.null!r}, wanted a text or several texts",
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
                else [f"encoding is {self.encoding!r}, wanted one that Python has"]
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
            problems.append("header is (), wanted True, False or the names of the columns")
        if problems:
            raise JobError(
                "Csv(...) cannot be used",
                problems=problems,
                hint='such as Csv(delimiter=";", encoding="latin-1", decimal=",")',
            )


def _no_sign(name: str, value: Any) -> list[str]:
    """Return the problem of a delimiter or a quote, if it has one."""
    fine = value is None or (
        isinstance(value, str) and len(value) == 1 and value.isascii() and value not in "\r\n\0"
    )
    return [] if fine else [f"{name} is {value!r}, wanted one ASCII character"]


def _is_codec(name: Any) -> bool:
    """Return whether Python can read a text in an encoding piece by piece and mark what is invalid
    in it.
    """
    try:
        if not codecs.lookup(name)._is_text_encoding:
            return False
        decoder = codecs.getincrementaldecoder(name)("backslashreplace")
        return bool(decoder.decode("a,b\n".encode(name), True) == "a,b\n")
    except (LookupError, TypeError, ValueError):
        return False


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


@dataclass(frozen=True)
class Source:
    """Input rows and their constraints.

    `contract`     a dataclass or pydantic model whose fields are the columns.
                   `Annotated[float, Gt(0)]`, `Literal[...]`, an Enum, `re.compile(...)` and
                   `X | None` constrain values. A dataclass field with the default None can be
                   missing from the files; it is null then
    `path`         default location of the rows: a file, a glob or a folder (relative to the job's
                   file)
    `unique`       the columns of a row's key. Exact copies are kept once. Of differing rows with
                   one key, the one with the greatest `latest` wins; without `latest`, or in a tie,
                   all are rejected
    `references`   {"product": "catalog.product"}: the value must exist in that source
    `not_future`   date columns whose values must not be later than the run's `as_of`
    `clean`        {"price": "replace(price, ',', '.')"}: SQL that repairs a column before its
                   checks
    `max_rejected` maximum of rejected rows: a count (int) or a fraction (float, 0.0 to 1.0). The
                   run stops above it
    `max_replaced` maximum of rows that are superseded by later ones (`latest`): a count or a
                   fraction. The run stops above it: a key that is shared by rows which are not
                   restatements loses data. The default allows all
    `csv`          a Csv(...), the dialect of its CSV files; other formats ignore it
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
                f"source {self.name}: contract is {self.contract!r}, wanted a dataclass or a "
                "pydantic model (the class itself)"
            )
        if not isinstance(self.references, Mapping) or not isinstance(self.clean, Mapping):
            raise JobError(
                f"source {self.name}: references and clean must be mappings of a column to a text",
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
    """A function that is called for every unit: its query, the key of its units, and its options.

    `work(rows, ...)` receives the rows of one unit in the form of its first annotation
    (pandas.DataFrame, polars.DataFrame, pyarrow.Table, or a light mapping of NumPy arrays), and the
    results of earlier models in parameters with their names. With `batched` it receives all units
    of a batch at once (`rows.offsets`, `rows.keys`).

    `unit`        the key columns of a unit; () is one unit with all rows
    `query`       SQL text, or the path of a .sql file relative to the job; by default all rows of
                  the job's only source. Besides sources and earlier models it can read a table
                  `run` with one row: run_id, job, as_of
    `order_by`    columns that order the rows within a unit
    `inputs`      the earlier models whose results `work` receives; by default its further
                  parameters
    `returns`     the contract of a result row, if the return annotation does not declare it
    `time_limit`  maximum seconds per unit
    `max_units_per_worker`  number of units after which a worker process is replaced, for a function
                  whose library leaks memory, open files or threads. By default a worker is replaced
                  when its memory approaches its share
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
                f"model {self.name}: its function is asynchronous, and would return a coroutine "
                "instead of a result",
                hint="write `def` instead of `async def`; worker processes run units in parallel",
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
            "omit query for all rows of the job's only source",
        )
        if not isinstance(self.batched, bool):
            raise JobError(f"model {self.name}: batched is {self.batched!r}, wanted True or False")
        number = isinstance(self.time_limit, int | float) and not isinstance(self.time_limit, bool)
        if self.time_limit is not None and not (number and self.time_limit > 0):
            raise JobError(
                f"model {self.name}: time_limit is {self.time_limit!r}, wanted seconds above 0, "
                "or None"
            )
        units = self.max_units_per_worker
        if units is not None and not (_is_count(units) and units >= 1):
            raise JobError(
                f"model {self.name}: max_units_per_worker is {units!r}, wanted a whole number of "
                "1 or more, or None"
            )

    @cached_property
    def annotations(self) -> Mapping[str, Any]:
        """The annotation of each parameter of the function, and of `return` last.

        None without an annotation, and a string if it cannot be evaluated. It is sent with the
        model: in another process, names in a string can be missing.
        """
        return annotations_of(self.work)


@dataclass(frozen=True)
class Publish:
    """A table that is published as files of a release: a query over results and sources.

    Its table `run` has two more columns than that of models: table_version, parent_version.

    `summaries`   {"Ten largest moves": "queries/moves.sql"}: small queries over the published
                  table, by its name. Their rows are kept with the release and shown at the end of
                  the run
    `to`          DynamoDB("prices", key="product"): a table that gets the rows of the current
                  release, for systems that look them up
    """

    name: str
    query: str
    contract: type | None = None
    formats: Sequence[str] = ("parquet",)
    summaries: Mapping[str, str] = field(default_factory=dict)
    to: DynamoDB | None = None

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
        if self.to is not None and not isinstance(self.to, DynamoDB):
            raise JobError(
                f"publish {self.name}: to is {self.to!r}, wanted a table",
                hint='such as to=DynamoDB("prices", key="product")',
            )
        if self.to is not None and "parquet" not in self.formats:
            raise JobError(
                f"publish {self.name}: formats are {self.formats}, and to= needs parquet",
                hint="its exact types are those of the items: add it to formats",
            )


@dataclass(frozen=True)
class Job:
    """A declaration of sources, models in the order of dependencies, and published tables.

    `max_failed`  maximum of failed units: a count (int) or a fraction (float, 0.0 to 1.0). Above
                  it, the run is held and not published
    `folder`      base of relative paths; by default the folder of the file that declares the job
    """

    name: str
    sources: Sequence[Source]
    models: Sequence[Model]
    publish: Publish | Sequence[Publish] = ()
    max_failed: int | float = 0
    folder: Path | None = None

    def __post_init__(self) -> None:
        _name("job", self.name)
        for attribute, kind in (("sources", Source), ("models", Model), ("publish", Publish)):
            _parts(self, attribute, kind)
        object.__setattr__(
            self, "folder", Path(self.folder) if self.folder else _declaring_folder()
        )
        check_limit(f"job {self.name}: max_failed", self.max_failed)
        _check_names(self)

    def _repr_html_(self) -> str:
        """Return the parts of the job in the order of a run as an HTML table, for a notebook."""
        from .html_tables import html_table  # no run needs it

        sources = [("source", each.name, _source_text(each)) for each in self.sources]
        models = [("model", each.name, _model_text(each)) for each in self.models]
        published = [("publish", each.name, ", ".join(each.formats)) for each in self.releases]
        rows = [*sources, *models, *published]
        return html_table(("part", "name", "of"), rows, f"job {self.name}")

    @property
    def releases(self) -> tuple[Publish, ...]:
        return tuple(self.publish)  # type: ignore[arg-type]  # __post_init__ made it a tuple

    def model(self, name: str) -> Model:
        """Return the model of that name; JobError if there is none."""
        found = next((model for model in self.models if model.name == name), None)
        if found is None:
            known = ", ".join(model.name for model in self.models)
            raise JobError(f"job {self.name} has no model {name!r}; it has {known}")
        return found

    def source(self, name: str) -> Source:
        """Return the source of that name; JobError if there is none."""
        found = next((source for source in self.sources if source.name == name), None)
        if found is None:
            known = ", ".join(source.name for source in self.sources)
            raise JobError(f"job {self.name} has no source {name!r}; it has {known}")
        return found


def _source_text(source: Source) -> str:
    """Return the contract and the path of a source."""
    contract = f"rows of {source.contract.__name__}" if source.contract else "any rows"
    return f"{contract} in {source.path}" if source.path else contract


def _model_text(model: Model) -> str:
    """Return the function, the unit and the inputs of a model."""
    function = getattr(model.work, "__name__", type(model.work).__name__)
    unit = f"each {', '.join(model.unit)}" if model.unit else "all rows"
    inputs = f", with the results of {', '.join(model.inputs)}" if model.inputs else ""
    return f"{function} for {unit}{inputs}"


def _name(kind: str, name: str) -> None:
    if not isinstance(name, str) or not NAME.fullmatch(name) or name in RESERVED_NAMES:
        raise JobError(
            f"{kind} name {name!r} cannot be used",
            problems=(
                "wanted: a lower-case letter, then letters, digits and _ (at most 63), "
                f"and none of {', '.join(sorted(RESERVED_NAMES))}",
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


def _refuse_blank(subject: str, query: Any, hint: str) -> None:
    if isinstance(query, str) and (not query.strip() or "\0" in query):
        raise JobError(
            f"{subject}: its query is {query!r}, wanted SQL, or the name of a .sql file", hint=hint
        )


def _parts(job: Job, attribute: str, kind: type) -> None:
    """Replace an attribute that is one part or several by a tuple; JobError for other types."""
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


def check_limit(name: str, limit: object) -> None:
    """Raise JobError for a limit that is neither a count nor a fraction."""
    if (
        isinstance(limit, bool)
        or not isinstance(limit, int | float)
        or not limit >= 0
        or (isinstance(limit, float) and limit > 1)
    ):
        raise JobError(
            f"{name} is {limit!r}, wanted a count (int, 0 or more) or a fraction "
            "(float, 0.0 to 1.0)"
        )


def allowed(limit: float, total: int) -> int:
    """Return the count that a limit allows: itself, or for a fraction, that part of `total`."""
    return limit if isinstance(limit, int) else int(limit * total)


def _further_parameters(
    model: str, work: Callable[..., Any]
) -> tuple[list[inspect.Parameter], bool]:
    """Return the parameters after the first (the rows), and whether other names are accepted."""
    try:
        parameters = list(signature_of(work).parameters.values())
    except (TypeError, ValueError) as error:
        raise JobError(
            f"model {model}: the signature of {work!r} cannot be read ({error})"
        ) from error
    named = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if not named:
        raise JobError(
            f"model {model}: its function has no parameter, wanted one for the unit's rows",
            hint="write def price(rows): ...; in a decorator, @functools.wraps(function) keeps the "
            "parameters",
        )
    nameless = [p.name for p in named[1:] if p.kind is p.POSITIONAL_ONLY and p.default is p.empty]
    if nameless:
        raise JobError(
            f"model {model}: its function takes {', '.join(nameless)} by position only, and "
            "results of earlier models are passed by name",
            hint="remove the / after the parameter, or give it a default",
        )
    further = [p for p in named[1:] if p.kind is p.POSITIONAL_OR_KEYWORD] + [
        p for p in parameters if p.kind is p.KEYWORD_ONLY
    ]
    return further, any(p.kind is p.VAR_KEYWORD for p in parameters)


def _declaring_folder() -> Path:
    """Return the folder of the file that declares the job.

    It is that of the first frame that is neither of this package nor of generated code.
    """
    frame = sys._getframe(1)
    while frame is not None and (
        frame.f_code.co_filename.startswith((FOLDER, "<"))
        or "dataclasses" in frame.f_code.co_filename
    ):
        frame = frame.f_back  # type: ignore[assignment]
    folder = Path(frame.f_code.co_filename).parent if frame is not None else Path()
    return folder.resolve() if folder.is_dir() else Path.cwd()


def _check_names(job: Job) -> None:
    """Raise JobError for names that are used twice, and for references to unknown names."""
    _check_unique_names(job)
    if not job.sources:
        raise JobError(f"job {job.name} has no source", hint='add sources=[Source("sales")]')
    if not job.models:
        raise JobError(
            f"job {job.name} has no model",
            hint='add models=[Model("prices", unit=("shop",), work=price)]',
        )
    for position, model in enumerate(job.models):
        _check_inputs(job, model, [earlier.name for earlier in job.models[:position]])
    known = {source.name for source in job.sources}
    unknown = [
        f"{source.name}.{column} -> {target}"
        for source in job.sources
        for column, target in source.references.items()
        if target.split(".")[0] not in known
    ]
    if unknown:
        raise JobError(
            f"job {job.name}: references to a source that the job does not have", problems=unknown
        )


def _check_unique_names(job: Job) -> None:
    names = [
        *(source.name for source in job.sources),
        *(model.name for model in job.models),
        *(release.name for release in job.releases),
    ]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise JobError(
            f"job {job.name}: the name {', '.join(repeated)} is used twice; sources, models and "
            "published tables share one set of names"
        )


def _check_inputs(job: Job, model: Model, earlier: Sequence[str]) -> None:
    """Raise JobError for inputs that are no earlier models, and for a query that is missing."""
    unknown = [name for name in model.inputs or () if name not in earlier]
    if unknown:
        raise JobError(
            f"model {model.name} takes {', '.join(unknown)} as inputs, which is no model before it",
            hint=f"before it are: {', '.join(earlier) or 'none'}; a parameter that is not an "
            "earlier model needs a default",
        )
    if model.query is None and len(job.sources) > 1:
        raise JobError(
            f"model {model.name} has no query, and the job has {len(job.sources)} sources to "
            "choose from",
            hint='query="SELECT * FROM ..."',
        )
