"""AWS Batch: a job is a process of this machine, as a task of ECS is (tasks.py).

MiniStack records each job as done at once, terminates none, and CloudFormation knows no resource of
Batch. Jobs have one attempt; TerminateJob sends SIGTERM, and SIGKILL after 30 seconds.
"""

from __future__ import annotations

import json
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping
from typing import Any

from ministack.core import iam_actions
from ministack.core.responses import (
    error_response_json,
    get_account_id,
    get_region,
    json_response,
    new_uuid,
)
from ministack.services import batch
from ministack.services.cloudformation import provisioners

from . import need, setting
from .rights import DeniedError
from .tasks import check_start, exit_status, kill_after, launch

need(batch, "_DISPATCH", "_jobs", "_now_ms")
need(iam_actions, "extract_resource_arn")
need(provisioners, "_RESOURCE_HANDLERS")
STOP_TIMEOUT_S = 30
KINDS = {  # of resources: the part of their ARN, and the attribute that has it
    "AWS::Batch::ComputeEnvironment": ("compute-environment", "ComputeEnvironmentArn"),
    "AWS::Batch::JobQueue": ("job-queue", "JobQueueArn"),
    "AWS::Batch::JobDefinition": ("job-definition", "JobDefinitionArn"),
}
definitions: dict[str, dict[str, Any]] = {}  # the containers of the definitions, by ARN
processes: dict[str, subprocess.Popen[bytes]] = {}  # by job


def fill() -> None:
    for kind, (part, attribute) in KINDS.items():
        provisioners._RESOURCE_HANDLERS[kind] = {
            "create": _creating(part, attribute),
            "delete": _nothing,
        }
    batch._DISPATCH |= {
        "/v1/submitjob": submit_job,
        "/v1/listjobs": list_jobs,
        "/v1/terminatejob": terminate_job,
    }
    iam_actions.extract_resource_arn = _with_jobs(iam_actions.extract_resource_arn)


def _creating(part: str, attribute: str) -> Callable[..., tuple[str, dict[str, str]]]:
    def create(logical_id: str, properties: Any, stack: str) -> tuple[str, dict[str, str]]:
        revision = ":1" if part == "job-definition" else ""
        arn = f"{_at()}:{part}/{stack}-{logical_id}{revision}"
        if part == "job-definition":
            definitions[arn] = properties["ContainerProperties"]
        return arn, {attribute: arn}

    return create


def _nothing(name: str, properties: Any) -> None:
    """Delete a resource."""


def _at() -> str:
    return f"arn:aws:batch:{get_region()}:{get_account_id()}"


def submit_job(data: dict[str, Any]) -> Any:
    """Start a process as a job."""
    if refused_with := setting("refused_tasks", None):
        return error_response_json(*refused_with, 400)
    container, name = definitions[data["jobDefinition"]], new_uuid()
    job = {
        "jobId": name,
        "jobArn": f"{_at()}:job/{name}",
        "jobName": data["jobName"],
        "jobQueue": data["jobQueue"],
        "status": "RUNNING",
        "statusReason": "",
        "createdAt": batch._now_ms(),
        "container": {},
    }
    batch._jobs[name] = job
    reply = json_response({"jobId": name, "jobName": data["jobName"], "jobArn": job["jobArn"]})
    group = container["LogConfiguration"]["Options"]["awslogs-group"]
    try:
        check_start(container["ExecutionRoleArn"], container["Image"], group)
    except DeniedError as error:
        job.update(status="FAILED", statusReason=str(error))
        return reply
    changed = data.get("containerOverrides", {}).get("environment", [])
    variables = {each["Name"]: str(each["Value"]) for each in container["Environment"]}
    variables |= {each["name"]: each["value"] for each in changed}
    process = launch(name, container["JobRoleArn"], variables, container["Command"])
    processes[name] = process
    threading.Thread(target=_watch, args=(job, process), daemon=True).start()
    return reply


def _watch(job: dict[str, Any], process: subprocess.Popen[bytes]) -> None:
    status = exit_status(process.wait())
    reason = job["statusReason"] or "Essential container in task exited"
    job["container"] = {"exitCode": status}
    job.update(status="FAILED" if status else "SUCCEEDED", statusReason=reason)


def list_jobs(data: dict[str, Any]) -> Any:
    """Return the jobs of a queue whose name is that of the filter, whatever its case."""
    [named] = data["filters"]
    assert named["name"] == "JOB_NAME"
    names = [value.lower() for value in named["values"]]
    found = [
        job
        for job in batch._jobs.values()
        if job["jobQueue"] == data["jobQueue"] and job["jobName"].lower() in names
    ]
    return json_response({"jobSummaryList": found})


def terminate_job(data: dict[str, Any]) -> Any:
    """Send SIGTERM to the process of a job, and SIGKILL after the stop timeout."""
    job, process = batch._jobs.get(data["jobId"]), processes.get(data["jobId"])
    if job is None:
        return error_response_json("ClientException", "no such job", 400)
    if process is not None and process.poll() is None:
        job["statusReason"] = data["reason"]
        process.send_signal(signal.SIGTERM)
        threading.Thread(target=kill_after, args=(process, STOP_TIMEOUT_S), daemon=True).start()
    return json_response({})


def _with_jobs(found: Callable[..., str]) -> Callable[..., str]:
    """Name the resources of the actions of jobs as AWS does."""

    def resource(service: str, *rest: Any, **named: Any) -> str:
        if service != "batch":
            return found(service, *rest, **named)
        data = _body_of(rest, named)
        if "jobId" in data:
            return f"{_at()}:job/{data['jobId']}"
        return str(data["jobQueue"]) if "jobDefinition" in data else "*"

    return resource


def _body_of(rest: tuple[Any, ...], named: Mapping[str, Any]) -> dict[str, Any]:
    body = next((each for each in (*rest, *named.values()) if isinstance(each, bytes)), b"")
    found = json.loads(body or b"{}")
    return found if isinstance(found, dict) else {}
