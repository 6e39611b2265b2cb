"""Reads the files of sources with DuckDB: CSV, JSON lines and Parquet, as queries of raw rows."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from ..contract import Column, quote
from ..errors import HundredfoldError, QueryError, SourceError
from ..job import Source
from ..ports.interfaces import AttachedSource, Fingerprint, SourcePlace
from .casts import keeps_digits
from .sources import json_lines
from .sources.changes import check_unchanged
from .sources.csv_files import CsvFile, dialect_facts, malformed_lines, prepare_csv, text_to_cast
from .sources.files import (
    Files,
    candidate_types,
    check_column_names,
    find_files,
    frame_to_table,
    pattern,
    remaining_types,
    type_checks_sql,
)
from .sources.listing import partition_types
from .sources.parquet_files import (
    exact_times,
    reject_inexact,
    without_zone,
)

# columns of CSV files in one query for types: the cost of planning is superlinear
MAX_TYPED_COLUMNS = 50
MAX_SAMPLED_COLUMNS = 500  # columns of which a query reads one value: each takes a buffer
SAMPLE_ROWS = 2_000  # rows of a CSV file that are tried with every type
UNNAMED_FIELD = r'[{,]\s*""\s*:'  # in a line of JSON
T = TypeVar("T")


@runtime_checkable
class WritableStore(Protocol):
    """A store that takes files which DuckDB writes, such as one in S3."""

    def writing(self, key: str) -> AbstractContextManager[Path]:
        """Return a path to write to, which becomes the object when the block ends."""


@runtime_checkable
class DiskStore(WritableStore, Protocol):
    """A store whose objects are files that DuckDB can open."""

    def path(self, key: str) -> Path:
        """Return the file of an object."""


class Engine(Protocol):
    """The parts of the warehouse that reading sources needs."""

    connection: duckdb.DuckDBPyConnection
    scratch: Path
    parquet_files: dict[str, Sequence[str]]
    tick: Callable[[], None]

    @property
    def store(self) -> DiskStore: ...
    def query(self, select: str) -> pa.Table: ...
    def columns(self, select: str) -> pa.Schema: ...
    def run(self, sql: str) -> list[tuple[Any, ...]]: ...
    def call(self, call: Callable[[], T]) -> T: ...
    def query_error(self, error: Exception, select: str) -> HundredfoldError: ...
    def fingerprints(self, paths: Sequence[str]) -> list[Fingerprint]: ...
    def find_damage(
        self, source: str, paths: Sequence[str], error: QueryError
    ) -> SourceError | None: ...


class SourceReader:
    """Attaches the files of sources to a warehouse."""

    def __init__(self, engine: Engine) -> None:
        self._db = engine

    def attach(
        self,
        source: Source,
        place: SourcePlace,
        folder: Path | None,
        contract_columns: Mapping[str, Column],
        staged: str,
    ) -> AttachedSource:
        """Return the raw rows of a source; as text where the format has no types and a contract
        has.
        """
        name = source.name
        if not isinstance(place, str | Path):
            with self._db.store.writing(staged) as path:
                pq.write_table(frame_to_table(name, place), path)
            return self._attach_parquet(
                name,
                Files((str(self._db.store.path(staged)),), "parquet"),
                contract_columns,
                in_place=False,
            )
        files = find_files(name, str(place), folder or Path())
        if files.kind == "parquet":
            return self._attach_parquet(name, files, contract_columns, in_place=True)
        if not any(Path(p).stat().st_size for p in files.paths):
            raise SourceError(
                f"{name} is empty: {files.paths[0]} has no bytes",
                hint=f"name another place with --source {name}=PATH",
            )
        if files.kind == "csv":
            return self._attach_csv(source, files, contract_columns, staged)
        with self._unchanged(name, files):
            return self._attach_json(name, files, contract_columns, staged)

    def _attach_parquet(
        self, source: str, files: Files, wanted: Mapping[str, Column], in_place: bool
    ) -> AttachedSource:
        before = self._db.fingerprints(files.paths) if in_place else []
        self._db.parquet_files[source] = files.paths
        select = (
            f"SELECT * FROM read_parquet({files.sql_list}, filename = '__file', file_row_number "
            "= true, union_by_name = true, hive_partitioning = false)"
        )
        types = self._parquet_types(source, files, select)
        try:
            if len(files.paths) > 1:
                self._refuse_mixed_types(source, files, select)
            if in_place:
                reject_inexact(source, files.paths, self._db.query)
            clocks = exact_times(types)
            plain = ", ".join(
                f"{clocks[n]} AS {quote(n)}" if n in clocks else quote(n)
                for n in types
                if n not in ("__file", "file_row_number")
            )
            where = "__file" if in_place else "'(in memory)'"
            select = (
                f"SELECT {plain}, {where} AS __file, file_row_number + 1 AS __row FROM "
                f"({select}) AS f"
            )
            kinds = {n: without_zone(kind) for n, kind in types.items() if n not in wanted}
            self._refuse_midnight(
                source,
                select,
                {n: kind for n, kind in kinds.items() if kind in ("TIME", "TIME_NS")},
            )
            select = self._with_partitions(
                source, select, files, wanted, as_text=False, has=self._has_column
            )
        except QueryError as error:
            raise self._db.find_damage(source, files.paths, error) or error from error
        return AttachedSource(
            select, self._db.columns(select), in_place=in_place, fingerprints=before
        )

    def _parquet_types(self, source: str, files: Files, select: str) -> dict[str, str]:
        """Return the types of the columns. Raises: SourceError for damage and reserved names."""
        try:
            types = self._types(select)
        except QueryError as error:
            _refuse_file_column(source, error)
            raise self._db.find_damage(source, files.paths, error) or SourceError(
                f"{source}: {files.paths[0]} cannot be read as Parquet: "
                f"{error.message.split(chr(10))[0]}",
                hint="is it a complete Parquet file?",
            ) from error
        check_column_names(source, [n for n in types if n != "__file"])
        # DuckDB renames columns without a name, and those whose name differs from another only in
        # case
        if any(re.search(r"_\d+$|^C\d+$", n) for n in types):
            for path in files.paths:
                check_column_names(source, pq.read_schema(path).names)
        return types

    def _has_column(self, path: str, name: str) -> bool:
        """Return whether a Parquet file has a column of that name, in any case."""
        types = self._types(
            f"SELECT * FROM read_parquet({pattern(path)}, hive_partitioning = false)"
        )
        return name.lower() in {found.lower() for found in types}

    def _refuse_midnight(self, source: str, select: str, clocks: Mapping[str, str]) -> None:
        """Raise SourceError where a column without a contract has 24:00, which a Python time cannot
        be.
        """
        if not clocks:
            return
        counts = ", ".join(
            f"count(*) FILTER (WHERE {quote(n)} >= CAST('24:00:00' AS {kind})) AS n{i}"
            for i, (n, kind) in enumerate(clocks.items())
        )
        found = dict(
            zip(
                clocks,
                self._db.query(f"SELECT {counts} FROM ({select}) AS s").to_pylist()[0].values(),
                strict=True,
            )
        )
        bad = {name: rows for name, rows in found.items() if rows}
        if bad:
            raise SourceError(
                f"{source} has the time of day 24:00, but a time in Python ends before it",
                problems=[f"{name}: {rows:,} row(s)" for name, rows in bad.items()],
                hint="declare a contract with this field of type time, so that these rows are "
                "rejected; or write 00:00 of the next day",
            )

    def _refuse_mixed_types(self, source: str, files: Files, select: str) -> None:
        """Refuse Parquet files whose types of a column have no common type that keeps every
        value.
        """
        tops = (
            "SELECT file_name, name, type, logical_type, precision, scale FROM "
            f"parquet_schema({files.sql_list})"
        )
        shape = (
            "SELECT file_name, string_agg(concat_ws(':', name, type, logical_type, precision, "
            f"scale), ';') AS shape FROM ({tops}) GROUP BY file_name"
        )
        firsts = self._db.query(
            f"SELECT min(file_name) AS first, list(file_name) AS files FROM ({shape}) GROUP BY "
            "shape ORDER BY first"
        ).to_pylist()
        if len(firsts) == 1:
            return
        groups = [
            (
                self._types(
                    f"SELECT * FROM read_parquet({pattern(group['first'])}, hive_partitioning = "
                    "false)"
                ),
                group,
            )
            for group in firsts
        ]
        common = {name.lower(): kind for name, kind in self._types(select).items()}
        for name, kind in common.items():
            own = [
                (types[found], group, found)
                for types, group in groups
                for found in types
                if found.lower() == name
            ]
            if len({found for found, *_ in own}) < 2:
                continue
            valued = [
                entry for entry in own if self._values_of_column(entry).column("n")[0].as_py()
            ]
            if len({_kind_of_type(found) for found, *_ in valued}) > 1:
                raise SourceError(
                    f"{source}: its files have the column {name} with types that cannot be "
                    "combined",
                    problems=[f"{group['first']}: {found}" for found, group, _ in valued],
                    hint="write all files with one type",
                )
            for entry in valued:
                self._refuse_loss(source, kind, entry)

    def _types(self, select: str) -> dict[str, str]:
        found = self._db.query(f"DESCRIBE {select}")
        return dict(
            zip(
                found.column("column_name").to_pylist(),
                found.column("column_type").to_pylist(),
                strict=True,
            )
        )

    def _values_of_column(
        self, entry: tuple[str, dict[str, Any], str], where: str = ""
    ) -> pa.Table:
        """Return the number of values of a column in a group of files, and the first value.

        where: counts only the values that meet a condition.
        """
        _, group, name = entry
        paths = ", ".join(map(pattern, group["files"]))
        rows = (
            f"SELECT {quote(name)} AS v, filename AS file FROM read_parquet([{paths}], filename "
            "= true, hive_partitioning = false)"
        )
        return self._db.query(
            "SELECT count(v) AS n, min(file) AS file, min(CAST(v AS VARCHAR)) AS value FROM "
            f"({rows}) AS r{where}"
        )

    def _refuse_loss(
        self, source: str, common: str, entry: tuple[str, dict[str, Any], str]
    ) -> None:
        """Raise SourceError where the common type of a column changes one of its values."""
        kind, _, name = entry
        if kind == common:
            return
        back = f"TRY_CAST(TRY_CAST(v AS {common}) AS {kind}) IS DISTINCT FROM v"
        if kind.startswith("DECIMAL"):
            back += (
                f" AND TRY_CAST(CAST(TRY_CAST(v AS {common}) AS VARCHAR) AS {kind}) IS DISTINCT "
                "FROM v"
            )
        lost = self._values_of_column(entry, f" WHERE {back}").to_pylist()[0]
        if lost["n"]:
            raise SourceError(
                f"{source}: its files have the column {name} as {kind} and as {common}, and "
                f"{lost['n']:,} value(s) would change",
                problems=[f"{lost['file']}: {lost['value']} is no {common}"],
                hint="write all files with one type",
            )

    def _with_partitions(
        self,
        source: str,
        select: str,
        files: Files,
        wanted: Mapping[str, Column],
        *,
        as_text: bool,
        has: Callable[[str, str], bool] | None = None,
    ) -> str:
        """Return the rows with the columns of KEY=VALUE folders.

        They are text, or of the type that a contract wants or that all values have. A column that
        only some files have gets the value of the folder in the others. has: returns whether a file
        has a column of which it has no value.

        Raises: SourceError if a file has a column of that name with another value.
        """
        if not files.partitions:
            return select
        types = partition_types(files.partitions)
        check_column_names(source, list(types))
        found = self._types(select)
        own = {name.lower(): name for name in found}
        rows = _partition_rows(files, list(types))
        joined = (
            f"({select}) AS s JOIN (VALUES {rows}) AS p(__path, {', '.join(map(quote, types))}) "
            "ON p.__path = s.__file"
        )
        filled = []
        for key in types:
            if name := own.get(key.lower()):
                without = self._files_without(select, name, has)
                self._refuse_other_value(source, key, name, found[name], joined, without)
                if without:
                    value = (
                        f"CASE WHEN s.__file IN ({sql_strings(without)}) THEN CAST(p.{quote(key)} "
                        f"AS {found[name]}) ELSE s.{quote(name)} END"
                    )
                    filled.append(f"{value} AS {quote(name)}")
        kinds = _partition_kinds(types, wanted, as_text)
        columns = "".join(
            f", CAST(p.{quote(key)} AS {kind}) AS {quote(key)}"
            for key, kind in kinds.items()
            if key.lower() not in own
        )
        replaced = f" REPLACE ({', '.join(filled)})" if filled else ""
        return f"SELECT s.*{replaced}{columns} FROM {joined}"

    def _files_without(
        self, select: str, name: str, has: Callable[[str, str], bool] | None
    ) -> list[str]:
        """Return the files without a column: it is not in their schema, and no row has a value in
        it.
        """
        empty = (
            f"SELECT __file FROM ({select}) AS s GROUP BY __file HAVING count({quote(name)}) = 0 "
            "ORDER BY __file"
        )
        return [
            path
            for path in self._db.query(empty).column("__file").to_pylist()
            if has is None or not has(path, name)
        ]

    def _refuse_other_value(
        self, source: str, key: str, own: str, kind: str, joined: str, without: Sequence[str]
    ) -> None:
        """Raise SourceError where a column differs from the KEY=VALUE folder of its rows."""
        text = f"CAST(s.{quote(own)} AS VARCHAR)"
        same = (
            f"{text} IS NOT DISTINCT FROM p.{quote(key)} OR coalesce(TRY_CAST({text} AS DOUBLE) "
            f"= TRY_CAST(p.{quote(key)} AS DOUBLE), FALSE)"
        )
        if without:
            none = f"p.{quote(key)} IS NOT NULL AND TRY_CAST(p.{quote(key)} AS {kind}) IS NULL"
            same = (
                f"CASE WHEN s.__file IN ({sql_strings(without)}) THEN NOT ({none}) ELSE {same} END"
            )
        found = self._db.query(
            f"SELECT s.__file AS file, {text} AS value, p.{quote(key)} AS folder FROM {joined} "
            f"WHERE NOT ({same}) LIMIT 1"
        ).to_pylist()
        if not found:
            return
        where = f"{source}: {found[0]['file']} is in a folder {key}={found[0]['folder']}, and"
        if found[0]["file"] in without:
            raise SourceError(
                f"{where} other files have a column {own} of type {kind}, which cannot hold that "
                "value",
                hint="write all files with the column",
            )
        raise SourceError(
            f"{where} its own column {own} has the value {found[0]['value']}",
            hint="remove or rename one of them, since either may be correct",
        )

    def _attach_csv(
        self, source: Source, files: Files, contract_columns: Mapping[str, Column], staged: str
    ) -> AttachedSource:
        """Read all values as text, and convert those that have no contract.

        A type that DuckDB guesses could change them.
        """
        copies = self._db.scratch / "csv"
        try:
            with self._unchanged(source.name, files):
                found = self._store_csv(source, files, contract_columns, staged, copies)
        finally:
            shutil.rmtree(copies, ignore_errors=True)
        select = self._numbered(staged, [file.path for file in found])
        names = [name for name in self._db.columns(select).names if name not in ("__file", "__row")]
        named = {file.path: {name.lower() for name in file.dialect.names} for file in found}
        if not contract_columns:
            select = self._typed(select, names, _texts_to_convert(source, found, None))
        select = self._with_partitions(
            source.name,
            select,
            files,
            contract_columns,
            as_text=bool(contract_columns),
            has=lambda path, name: name.lower() in named.get(path, ()),
        )
        unread = malformed_lines(found)
        return AttachedSource(
            select,
            self._db.columns(select),
            text=bool(contract_columns),
            malformed=unread if unread.num_rows else None,
            csv=dialect_facts(found),
        )

    def _store_csv(
        self,
        source: Source,
        files: Files,
        contract_columns: Mapping[str, Column],
        staged: str,
        copies: Path,
    ) -> list[CsvFile]:
        """Store the rows of CSV files, and check that none is missing.

        Where DuckDB and the scan disagree, read copies of the files in a plain form.
        """
        names = list(contract_columns)
        for rewrite in (False, True):
            found = prepare_csv(
                source.name,
                files.paths,
                source.csv,
                names,
                copies,
                rewrite=rewrite,
                tick=self._db.tick,
            )
            for file in found:
                check_column_names(source.name, file.dialect.names)
            rows, failed = sum(file.scan.rows for file in found), None
            try:
                readers = (file.sql(pattern, named=len(found) > 1) for file in found)
                count = self._store_rows(
                    f"({' UNION ALL BY NAME '.join(readers)})",
                    staged,
                    _texts_to_convert(source, found, contract_columns),
                )
            except QueryError as error:
                count, failed = -1, error
            if count == rows:
                return found
        raise SourceError(
            f"{source.name}: {files.paths[0]} cannot be read as CSV: "
            + (
                failed.message.split("\n")[0]
                if failed
                else f"it has {rows:,} rows, and {count:,} were read"
            ),
            hint="write it as Parquet",
        ) from failed

    def _store_rows(
        self, reader: str, staged: str, replaced: Mapping[str, str] | None = None
    ) -> int:
        """Store the rows of a reader with numbers, and return how many there are."""
        changes = ", ".join(f"{sql} AS {quote(name)}" for name, sql in (replaced or {}).items())
        columns = f"* REPLACE ({changes})" if changes else "*"
        path: Path = self._db.store.path(staged)
        path.parent.mkdir(parents=True, exist_ok=True)
        count = self._db.run(
            f"COPY (SELECT row_number() OVER () AS __row, {columns} FROM {reader}) TO "
            f"'{escape_path(path)}' (FORMAT parquet)"
        )
        return int(count[0][0])

    def _numbered(self, staged: str, paths: Sequence[str]) -> str:
        """Return stored rows with their files and numbers, those of each file from 1.

        Rows of a single file have no column `__file`.
        """
        select = f"SELECT * FROM read_parquet('{escape_path(self._db.store.path(staged))}')"
        if len(paths) == 1:
            return f"SELECT *, {sql_string(paths[0])} AS __file FROM ({select}) AS s"
        first = f"SELECT __file, min(__row) AS first FROM ({select}) AS s GROUP BY __file"
        return (
            f"SELECT s.* REPLACE (s.__row - f.first + 1 AS __row) FROM ({select}) AS s JOIN "
            f"({first}) AS f ON s.__file = f.__file"
        )

    def _typed(self, select: str, names: Sequence[str], typing: Mapping[str, str]) -> str:
        """Convert columns of texts, each to the first type that all its values have.

        It stays text if there is none, or no value. typing: the SQL of the texts to convert, where
        it is not the column itself.
        """
        texts = (
            (
                "SELECT * REPLACE "
                f"({', '.join(f'{sql} AS {quote(n)}' for n, sql in typing.items())}) FROM "
                f"({select}) AS s"
            )
            if typing
            else select
        )
        first = f"{texts} LIMIT {SAMPLE_ROWS}"
        values = self._sample_values(names, first)
        values |= self._sample_values(
            [name for name, value in values.items() if value is None], texts
        )
        kinds = {name: candidate_types(value) for name, value in values.items()}
        valued = {name for name, value in values.items() if value is not None}
        few = (
            self._db.query(f"SELECT count(*) AS n FROM ({select}) AS s").column("n")[0].as_py()
            <= SAMPLE_ROWS
        )
        if not few:  # types that fail on the first rows are not tried on all
            kinds = self._fitting_types(kinds, first)
        asked = {name: open_[:1] for name, open_ in kinds.items() if open_}
        while asked:  # on all rows, one type at a time, since it is nearly always the first
            answers = self._fitting_types(asked, texts)
            wrong = [name for name, open_ in answers.items() if not open_]
            kinds |= {name: kinds[name][1:] for name in wrong}
            asked = {name: kinds[name][:1] for name in wrong if kinds[name]}
        each = ", ".join(
            f"CAST({typing.get(n, quote(n))} AS {kinds[n][0]}) AS {quote(n)}"
            if n in valued and kinds[n]
            else quote(n)
            for n in names
        )
        return f"SELECT __file, __row, {each} FROM ({select}) AS s"

    def _sample_values(self, names: Sequence[str], rows: str) -> dict[str, str | None]:
        """Return a value of each column of texts; None where it has none."""
        values: dict[str, str | None] = {}
        for some in _groups(names, MAX_SAMPLED_COLUMNS):
            found = self._db.query(
                "SELECT "
                f"{', '.join(f'any_value({quote(name)}) AS v{i}' for i, name in enumerate(some))} "
                f"FROM ({rows}) AS s"
            )
            values |= zip(some, found.to_pylist()[0].values(), strict=True)
        return values

    def _fitting_types(self, kinds: Mapping[str, Sequence[str]], rows: str) -> dict[str, list[str]]:
        """Return the types that fit every row of columns of texts."""
        found: dict[str, list[str]] = {name: [] for name in kinds}
        for some in _groups([name for name, open_ in kinds.items() if open_], MAX_TYPED_COLUMNS):
            asked = {name: kinds[name] for name in some}
            found |= remaining_types(
                asked,
                list(
                    self._db.query(f"SELECT {type_checks_sql(asked)} FROM ({rows}) AS s")
                    .to_pylist()[0]
                    .values()
                ),
            )
        return found

    def _attach_json(
        self, source: str, files: Files, wanted: Mapping[str, Column], staged: str
    ) -> AttachedSource:
        """Read JSON lines with the types of their values; the fields of a contract as text."""
        out: Path = self._db.store.path(staged)
        out.parent.mkdir(parents=True, exist_ok=True)
        columns = None
        try:
            columns = self._json_types(files, wanted)
            if columns is not None:
                check_column_names(source, list(columns))
                listed = ", ".join(
                    f"{sql_string(name)}: '{kind}'" for name, kind in columns.items()
                )
                named = "filename = '__file', " if len(files.paths) > 1 else ""
                reader = (
                    f"read_json({files.sql_list}, format = 'newline_delimited', {named}columns = "
                    f"{{{listed}}}, hive_partitioning = false)"
                )
                self._store_rows(reader, staged)
                if self._has_large_double(staged, columns) and self._any_line_matches(
                    files, json_lines.INEXACT_NUMBER
                ):
                    columns = None
        except QueryError as error:
            raise _read_error(source, files, error) from error
        if columns is not None:
            select = self._numbered(staged, files.paths)
        else:
            texts = {name: column.arrow for name, column in wanted.items()}
            nested = json_lines.read_lines(source, files.paths, texts, out)
            select = f"SELECT * FROM read_parquet('{escape_path(out)}')"
            values = "".join(f", CAST({quote(name)} AS JSON) AS {quote(name)}" for name in nested)
            select = f"SELECT * REPLACE ({values[2:]}) FROM ({select}) AS s" if values else select
        if (
            columns is not None
            and self._has_empty_row(select, columns)
            and (bad := json_lines.first_invalid_line(files.paths))
        ):
            raise SourceError(f"{source}: {bad}", hint=json_lines.hint_for(bad))
        check_column_names(
            source,
            [name for name in self._db.columns(select).names if name not in ("__file", "__row")],
        )
        select = self._with_partitions(source, select, files, wanted, as_text=bool(wanted))
        return AttachedSource(select, self._db.columns(select), text=bool(wanted))

    def _json_types(self, files: Files, wanted: Mapping[str, Column]) -> dict[str, str] | None:
        """Return the types with which DuckDB reads JSON lines without changing a value, or None."""
        reader = (
            f"read_json({files.sql_list}, format = 'newline_delimited', filename = '__file', "
            "sample_size = -1, union_by_name = true, hive_partitioning = false)"
        )
        fields = self._json_fields(reader)
        if fields is None:
            return None
        if any(re.fullmatch(r"C\d+", name) for name in fields) and self._any_line_matches(
            files, UNNAMED_FIELD
        ):
            return None  # DuckDB makes up a name for a field without one
        small = {name.lower() for name in fields}
        if list(fields) == ["json"] or any(
            small & {re.sub(r"_\d+$", "", name)} for name in small if re.search(r"_\d+$", name)
        ):
            # lines that are not objects, or names that differ only in case, have names made up by
            # DuckDB
            return None
        plain: dict[str, str] = {}
        scan = ""
        for name, kind in fields.items():
            column, nested = wanted.get(name), kind.id in ("list", "struct", "map")
            read = json_lines.sql_type(kind)
            if (
                read is None
                and not nested
                and str(kind) in ("JSON", '"NULL"')
                and self._is_null(files, name)
            ):
                read = "VARCHAR"
            if read is None and not (column and nested):
                return None
            if column is None:
                plain[name] = str(read)
                scan = scan or (
                    json_lines.INEXACT_NUMBER if nested and "DOUBLE" in str(read) else ""
                )
            elif nested:
                if not pa.types.is_nested(column.arrow) or (
                    keeps_digits(column.arrow) and re.search("DOUBLE|JSON", str(kind))
                ):
                    return None  # [1.10] would be written as [1.1]
                plain[name], scan = "JSON", json_lines.INEXACT_DIGITS
            else:
                plain[name] = "VARCHAR"
                if read == "DOUBLE" and pa.types.is_string(column.arrow):
                    return None  # 1.10 would be written as 1.1
                if read == "DOUBLE" and not pa.types.is_floating(column.arrow):
                    scan = json_lines.INEXACT_DIGITS
        return None if scan and self._any_line_matches(files, scan) else plain

    def _json_fields(self, reader: str) -> dict[str, duckdb.DuckDBPyType] | None:
        """Return the fields of JSON lines with the types that DuckDB detects.

        Returns None if an object has a name twice, which a contract may declare as a dict.
        """
        try:
            found = self._db.call(lambda: self._db.connection.sql(f"SELECT * FROM {reader}"))
        except duckdb.Error as error:
            if "Duplicate name" in str(error):
                return None
            raise self._db.query_error(error, reader) from error
        return {
            name: kind
            for name, kind in zip(found.columns, found.types, strict=True)
            if name != "__file"
        }

    def _any_line_matches(self, files: Files, pattern: str) -> bool:
        """Return whether a line of the files matches a pattern."""
        lines = f"read_json_objects({files.sql_list}, format = 'newline_delimited')"
        return bool(
            self._db.query(
                f"SELECT bool_or(regexp_matches(json, {sql_string(pattern)})) AS is_so FROM {lines}"
            )
            .column(0)[0]
            .as_py()
        )

    def _has_large_double(self, staged: str, columns: Mapping[str, str]) -> bool:
        """Return whether a column of doubles may have lost digits, or has a value beyond its
        range.
        """
        doubles = [
            f"max(abs({quote(name)})) >= 1e15" for name, kind in columns.items() if kind == "DOUBLE"
        ]
        rows = (
            f"SELECT {' OR '.join(doubles)} AS is_so FROM "
            f"read_parquet('{escape_path(self._db.store.path(staged))}')"
        )
        return bool(doubles and self._db.query(rows).column(0)[0].as_py())

    def _is_null(self, files: Files, name: str) -> bool:
        """Return whether a field of JSON lines has no value anywhere."""
        reader = (
            f"read_json({files.sql_list}, format = 'newline_delimited', columns = "
            f"{{{sql_string(name)}: 'JSON'}}, hive_partitioning = false)"
        )
        return (
            not self._db.query(f"SELECT count({quote(name)}) AS n FROM {reader}")
            .column(0)[0]
            .as_py()
        )

    def _has_empty_row(self, select: str, columns: Mapping[str, str]) -> bool:
        """Return whether a row has no value: its line may not be an object, such as null."""
        empty = " AND ".join(f"{quote(name)} IS NULL" for name in columns) or "TRUE"
        return bool(
            self._db.query(f"SELECT count(*) AS n FROM ({select}) AS s WHERE {empty}")
            .column(0)[0]
            .as_py()
        )

    @contextmanager
    def _unchanged(self, source: str, files: Files) -> Iterator[None]:
        """Check that no file changes within the block.

        Raises: SourceError, also in place of an error that the change caused.
        """
        before = self._db.fingerprints(files.paths)
        try:
            yield
        finally:
            check_unchanged(source, before, self._db)


def _partition_rows(files: Files, keys: Sequence[str]) -> str:
    """Return the SQL of the partition values of each file: (path, value, ...), ..."""
    rows = (
        (path, *(partition[key] for key in keys))
        for path, partition in zip(files.paths, files.partitions, strict=True)
    )
    return ", ".join(
        f"({', '.join('NULL' if value is None else sql_string(value) for value in row)})"
        for row in rows
    )


def _partition_kinds(
    types: Mapping[str, str], wanted: Mapping[str, Column], as_text: bool
) -> dict[str, str]:
    """Return the SQL type of each partition column: that of the contract, or of all its values."""
    return {
        key: kind if key not in wanted else "VARCHAR" if as_text else wanted[key].sql_type
        for key, kind in types.items()
    }


def _kind_of_type(kind: str) -> str:
    """Return the kind of a DuckDB type: types of one kind may be combined if no value changes."""
    if kind.endswith("]") or kind.startswith(("STRUCT", "MAP")):
        return "nested"
    name = kind.partition("(")[0]
    if without_zone(name) in ("TIME", "TIME_NS"):
        return "clock"
    if name in ("DATE", "TIMESTAMP", "TIMESTAMP_S", "TIMESTAMP_MS", "TIMESTAMP_NS"):
        return "time"
    return (
        "number"
        if name in ("DECIMAL", "FLOAT", "DOUBLE") or name.endswith(("INT", "INTEGER"))
        else name
    )


def _groups(names: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    """Yield groups of `size` columns."""
    for start in range(0, len(names), size):
        yield names[start : start + size]


def _texts_to_convert(
    source: Source, files: Sequence[CsvFile], wanted: Mapping[str, Column] | None
) -> dict[str, str]:
    """Return the SQL of the texts to convert, for columns where it is not the column itself.

    These are all columns, or those that a contract wants in another type and that no `clean`
    computes.
    """
    csv = source.csv
    # empty values and null texts are null by now, except for null texts in quotes
    all_null = csv.null == ("",) or (
        "" in csv.null and not any(file.scan.quoted_null for file in files)
    )
    if all_null and csv.decimal == ".":
        return {}
    names = dict.fromkeys(name for file in files for name in file.dialect.names)
    if wanted is None:
        return {name: text_to_cast(name, csv.decimal, csv.null) for name in names}
    kinds = {
        name: wanted[name].arrow for name in names if name in wanted and name not in source.clean
    }
    return {
        name: text_to_cast(name, csv.decimal if _is_number(kind) else ".", csv.null)
        for name, kind in kinds.items()
        if not pa.types.is_string(kind)
    }


def _is_number(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    )


def _read_error(source: str, files: Files, error: QueryError) -> SourceError:
    """Return the error for text files that cannot be read, with the line if it can be found."""
    _refuse_file_column(source, error)
    bad = json_lines.first_invalid_line(files.paths) if files.kind == "json" else None
    words = bad or error.message.split("\n")[0]  # the rest is a query of the engine
    hint = json_lines.hint_for(bad) if bad else "correct the file, or name another"
    return SourceError(
        f"{source}: {files.paths[0]} cannot be read as {files.kind}: {words}", hint=hint
    )


def _refuse_file_column(source: str, error: QueryError) -> None:
    """Refuse a column with a reserved name, which breaks DuckDB's reader before its names are
    known.
    """
    if "filename adds column" in error.message:
        check_column_names(source, ["__file"])
    if "file_row_number adds column" in error.message:
        raise SourceError(
            f"{source} has a column file_row_number, a name that is reserved for the numbers of "
            "rows in Parquet files",
            hint="rename the column in the file, or pass the rows as a frame",
        ) from error


def escape_path(path: Path) -> str:
    return str(path).replace("'", "''")


def sql_strings(texts: Sequence[str]) -> str:
    return ", ".join(map(sql_string, texts))


def sql_string(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
