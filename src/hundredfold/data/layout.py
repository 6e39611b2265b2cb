"""The keys of stored objects: of a run, and of the releases of a job."""

from __future__ import annotations

import re
from dataclasses import dataclass

from .messages import Message


@dataclass(frozen=True, slots=True)
class Layout:
    """The keys of a run's objects in the store; no other module knows them."""

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
        return f"{self.root}/validation.json"

    def source_validation_result(self, source: str) -> str:
        return f"{self.root}/validation/{source}.json"

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
        """Return the key of `part`: 'results', or 'status', which is written last as the commit."""
        units = f"{message.first:010d}-{message.last:010d}"
        name = f"{message.attempt:03d}-{message.batch:06d}-{units}.{part}.arrow"
        return f"{self.outcomes(message.model)}/{name}"

    def parse_outcome_key(self, key: str) -> Message | None:
        """Return the slice of a committed outcome from its key; None for any other key."""
        found = re.fullmatch(
            r"runs/([^/]+)/models/([^/]+)/outcomes/(\d+)-(\d+)-(\d+)-(\d+)\.status\.arrow", key
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
