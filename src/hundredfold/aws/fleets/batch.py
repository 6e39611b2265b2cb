"""A fleet of AWS Batch: jobs on instances of EC2 Spot, which Batch starts for them and ends."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, ClassVar

from botocore.exceptions import BotoCoreError, ClientError

from ..adapters.session import client
from .refusals import Refusal, refusal_at_start, refusal_of

ENDED = {"SUCCEEDED", "FAILED"}
CALLING_THREADS = 8  # SubmitJob allows 50 calls a second
NAME_PREFIX = "run-"  # the name of a job begins with a letter or a digit
MILLISECONDS = 1000  # of a second: Batch counts them
MAX_DESCRIBED = 10  # jobs that ended, for the reason in an error


@dataclass(frozen=True, slots=True)
class BatchFleet:
    """The jobs of one queue of a stack. queue, definition: their ARNs."""

    queue: str
    definition: str
    providers: ClassVar[Sequence[str]] = ("SPOT",)

    def active(self, run: str) -> int:
        """Return the jobs of a run that have not ended, also those that wait for an instance."""
        return sum(1 for _ in self._active(run))

    def start(
        self,
        run: str,
        count: int,
        environments: Sequence[Mapping[str, str]],
        token: str,  # noqa: ARG002  # of the port: Batch takes none, and lists jobs at once
        at: int,  # noqa: ARG002  # of the port
    ) -> tuple[int, list[Refusal]]:
        """Submit jobs; return how many, and why not the others."""
        variables = [{"name": name, "value": value} for name, value in environments[0].items()]

        def submit(_: int) -> Refusal | None:
            try:
                client("batch").submit_job(
                    jobName=f"{NAME_PREFIX}{run}",
                    jobQueue=self.queue,
                    jobDefinition=self.definition,
                    containerOverrides={"environment": variables},
                )
            except (BotoCoreError, ClientError) as error:
                return refusal_of(error)
            return None

        with ThreadPoolExecutor(CALLING_THREADS) as pool:
            replies = list(pool.map(submit, range(count)))
        refusals = dict.fromkeys(each for each in replies if each is not None)
        return replies.count(None), list(refusals)

    def stop(self, run: str, reason: str) -> int:
        """Terminate the jobs of a run, also those that wait; return how many there were."""
        jobs = [job["jobId"] for job in self._active(run)]

        def stop(job: str) -> None:
            client("batch").terminate_job(jobId=job, reason=reason)

        with ThreadPoolExecutor(CALLING_THREADS) as pool:
            for _ in pool.map(stop, jobs):
                pass  # reraises the error of a thread
        return len(jobs)

    def reasons(self, run: str) -> list[str]:
        """Return why jobs of a run have ended, each reason once."""
        ended = [job for job in self._jobs(run) if job["status"] in ENDED]
        return list(dict.fromkeys(map(_reason_of, ended[:MAX_DESCRIBED])))

    def refused_at_start(self, run: str, since: float) -> list[Refusal]:
        """Return why the containers of a run's ended jobs have not begun, each reason once.

        since: jobs that were created before are another execution's. None if one has begun.
        """
        ended = [
            job
            for job in self._jobs(run)
            if job["status"] in ENDED and job["createdAt"] >= since * MILLISECONDS
        ]
        if any("exitCode" in job.get("container", {}) for job in ended):
            return []
        return list(dict.fromkeys(refusal_at_start(_reason_of(job)) for job in ended))

    def _active(self, run: str) -> Iterator[Mapping[str, Any]]:
        return (job for job in self._jobs(run) if job["status"] not in ENDED)

    def _jobs(self, run: str) -> Iterator[Mapping[str, Any]]:
        name = f"{NAME_PREFIX}{run}"
        pages = client("batch").get_paginator("list_jobs")
        named = [{"name": "JOB_NAME", "values": [name]}]
        for page in pages.paginate(jobQueue=self.queue, filters=named):
            # the filter ignores the case of letters
            yield from (job for job in page["jobSummaryList"] if job["jobName"] == name)


def _reason_of(job: Mapping[str, Any]) -> str:
    """Return why a job ended, with the exit status of its container if it had one."""
    container = job.get("container", {})
    exits = f" (exit status {container['exitCode']})" if "exitCode" in container else ""
    detail = f": {container['reason']}" if container.get("reason") else ""
    return f"{job.get('statusReason') or 'no reason'}{exits}{detail}"
