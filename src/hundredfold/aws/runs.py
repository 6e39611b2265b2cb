"""How a run on AWS begins: its record, as the ledger keeps it, and its limits put on the job."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping

from ..errors import NEW_CODE, SourceError, StateError
from ..job import Job
from ..ports.interfaces import Record
from ..ports.run_facts import CodeEntry, RunOptions
from ..ports.run_states import State
from ..runs.names import check_aws_run_id
from .adapters.dynamodb_ledger import DynamoLedger
from .adapters.session import StackResources


def new_record(
    run: str,
    job: Job,
    ref: str,
    sources: Mapping[str, str],
    options: RunOptions,
    code: str = "",
) -> Record:
    """A run that nothing is done of, to be done by the code of that fingerprint.

    UsageError or SourceError if it cannot be.
    """
    check_aws_run_id(run)
    for name in sources:
        job.source(name)
    places = {source.name: sources.get(source.name, source.path) for source in job.sources}
    missing = [name for name, place in places.items() if not place]
    if missing:
        raise SourceError(
            f"the sources {', '.join(missing)} have no place",
            hint=(
                f"name it: --source {missing[0]}=s3://BUCKET/PREFIX/   or a path, which is uploaded"
            ),
        )
    return _record(
        run, job, ref, {name: place for name, place in places.items() if place}, options, code
    )


def entry_of(code: str, attempt: int) -> CodeEntry:
    """What a record says of the code that does an attempt and those that follow."""
    return CodeEntry(attempt=attempt, fingerprint=code, commit="")


def refuse_other_code(record: Record, code: str) -> None:
    """Raise StateError where the functions hold other code than the run is being done by: it was
    deployed meanwhile.
    """
    if is_other(record, code):
        raise StateError(
            f"other code was deployed while run {record.id} was at work: {code} instead of "
            f"{record.code[-1]['fingerprint']}",
            hint=(
                f"go on with it: hundredfold resume {record.id} {NEW_CODE}   or deploy the "
                f"earlier code again, then: hundredfold resume {record.id}"
            ),
        )


def is_other(record: Record, code: str) -> bool:
    """Whether the code of a fingerprint is other than that by which a run was done last, as far as
    both are known.
    """
    return bool(code and record.code) and record.code[-1]["fingerprint"] != code


def _record(
    run: str, job: Job, ref: str, places: Mapping[str, str], options: RunOptions, code: str
) -> Record:
    now = dt.datetime.now(dt.UTC)
    as_of = options.get("as_of") or now.replace(tzinfo=None, microsecond=0).isoformat(" ")
    stamp = now.isoformat(timespec="milliseconds")
    kept: RunOptions = {**options, "as_of": as_of, "sources": dict(places), "attempt": 1}
    if code:
        kept["code"] = [entry_of(code, 1)]
    return Record(run, job.name, ref, State.NEW, "new", stamp, stamp, options=kept)


def begin_upload(
    run: str, sources: Mapping[str, str], job: Job, place: StackResources, ledger: DynamoLedger
) -> Record:
    """Record a run that an upload began; its other sources are where the newest run had them that
    did not fail, or where the job says. SourceError where one has no place: nobody is there to be
    told, so that is recorded as well.
    """
    before = [
        record
        for record in ledger.runs(job.name)
        if record.state not in (State.FAILED, State.CANCELLED)
    ]
    known = before[0].source_addresses if before else {}
    options: RunOptions = {"uploaded": sorted(sources)}
    try:
        record = new_record(run, job, place.job, {**known, **sources}, options, place.code)
    except SourceError:
        ledger.create(_record(run, job, place.job, sources, options, place.code))
        raise
    ledger.create(record)
    return record
