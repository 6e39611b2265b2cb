"""ECS: a task is a process of this machine, with the environment and the role of its definition.

MiniStack starts tasks as containers of Docker, or records them as running without Docker. Here the
setting `worker_program` is the command in place of the image's entry point; without it, the image
cannot be pulled. StopTask sends SIGTERM, and SIGKILL after the stop timeout. RunTask starts nothing
twice for one token, `spot_tasks` is the number of tasks that Spot still has capacity for, and the
role of the start must be allowed to pull and to log. Resources and conditions of ECS actions are
those of AWS.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import psutil
from ministack.core import iam_actions, lambda_runtime
from ministack.core.responses import (
    error_response_json,
    get_account_id,
    get_region,
    json_response,
    request_scope,
)
from ministack.services import ecs
from ministack.services.cloudformation import provisioners

from . import FOLDER, need, setting
from .rights import DeniedError, acting_as, check

need(ecs, "_ACTION_MAP", "_run_task", "_tasks", "_task_defs", "_resolve_td_key", "_resolve_task")
need(ecs, "_mark_task_stopped", "_recount_cluster", "_cluster_name_from_arn", "_iso", "_sanitize")
need(iam_actions, "extract_resource_arn", "request_tag_context")
need(lambda_runtime, "execution_credentials")
need(provisioners, "_RESOURCE_HANDLERS")
PASSED_TO = {"iam:PassedToService": "ecs-tasks.amazonaws.com"}
PULLING = ("ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer")
LOGGING = ("logs:CreateLogStream", "logs:PutLogEvents")
NO_SPOT = "Capacity is unavailable at this time. Please try again later"
DEFAULT_STOP_TIMEOUT_S = 30
tokens: dict[str, tuple[str, Any]] = {}  # the request and the reply of each client token
processes: dict[str, subprocess.Popen[bytes]] = {}  # by the ARN of the task
spot_tasks_started = 0
lock = threading.RLock()


def fill() -> None:
    handlers = provisioners._RESOURCE_HANDLERS
    handlers["AWS::ECS::CapacityProvider"] = {"create": _named, "delete": _nothing}
    handlers["AWS::ECS::ClusterCapacityProviderAssociations"] = handlers[
        "AWS::ECS::CapacityProvider"
    ]
    ecs._ACTION_MAP["RunTask"] = run_task
    ecs._ACTION_MAP["StopTask"] = stop_task
    iam_actions.extract_resource_arn = _with_tasks(iam_actions.extract_resource_arn)
    iam_actions.request_tag_context = _with_cluster(iam_actions.request_tag_context)


def _named(logical_id: str, properties: Any, stack: str) -> tuple[str, dict[str, str]]:
    """Create a resource that has a name and no effect here."""
    return f"{stack}-{logical_id}", {}


def _nothing(name: str, properties: Any) -> None:
    """Delete it."""


def run_task(data: dict[str, Any]) -> Any:
    """Start processes as tasks; the same token and request give the same reply."""
    with lock:
        token, request = data.get("clientToken"), json.dumps(data, sort_keys=True)
        if token in tokens:
            before, reply = tokens[token]
            if before == request:
                return reply
            return error_response_json("ConflictException", "the token is of other tasks", 400)
        reply = _run_once(data)
        if token and reply[0] == 200:
            tokens[token] = request, reply
        return reply


def _run_once(data: dict[str, Any]) -> Any:
    global spot_tasks_started
    definition = ecs._task_defs.get(ecs._resolve_td_key(data["taskDefinition"]))
    try:
        for kind in ("taskRoleArn", "executionRoleArn"):
            if definition and definition.get(kind):
                check("iam:PassRole", definition[kind], PASSED_TO)
    except DeniedError as error:
        return error_response_json("AccessDeniedException", str(error), 400)
    if refused_with := setting("refused_tasks", None):
        return error_response_json(*refused_with, 400)
    asked = int(data.get("count", 1))
    strategy = data.get("capacityProviderStrategy") or [{}]
    refused = 0
    if strategy[0].get("capacityProvider") == "FARGATE_SPOT":
        capacity = int(setting("spot_tasks", 10**6)) - spot_tasks_started
        refused = asked - max(0, min(asked, capacity))
        spot_tasks_started += asked - refused
    failures = [{"reason": NO_SPOT}] * refused
    if refused == asked:
        return json_response({"tasks": [], "failures": failures})
    status, headers, body = ecs._run_task({**data, "count": asked - refused})
    if status != 200:
        return status, headers, body
    found = json.loads(body)
    for task in found["tasks"]:
        _start(ecs._tasks[task["taskArn"]], definition, data.get("overrides", {}))
    return json_response({**found, "failures": [*found["failures"], *failures]})


def _start(
    task: dict[str, Any], definition: Mapping[str, Any], overrides: Mapping[str, Any]
) -> None:
    """Start the process of a task and watch it; one that cannot start is a task that stopped."""
    arn, [container] = task["taskArn"], definition["containerDefinitions"]
    try:
        check_start(
            definition["executionRoleArn"],
            container["image"],
            container["logConfiguration"]["options"]["awslogs-group"],
        )
    except DeniedError as error:
        ecs._mark_task_stopped(arn, task, str(error), "TaskFailedToStart")
        return
    changed = overrides.get("containerOverrides") or [{}]
    variables = {
        each["name"]: str(each["value"])
        for each in [*container["environment"], *changed[0].get("environment", [])]
    }
    process = launch(
        arn.rsplit("/", 1)[-1], definition["taskRoleArn"], variables, container.get("command", [])
    )
    processes[arn] = process
    scope = get_account_id(), get_region()
    threading.Thread(target=_watch, args=(arn, task, process, scope), daemon=True).start()


def launch(
    name: str, role: str, variables: Mapping[str, str], command: Sequence[str]
) -> subprocess.Popen[bytes]:
    """Start the process of a container, with the credentials of a role."""
    folder = FOLDER / "tasks" / name
    folder.mkdir(parents=True)
    # a session of the role, as a function of that name would have it
    function = f"arn:aws:lambda:{get_region()}:{get_account_id()}:function:task"
    of_role = {"Role": role, "FunctionArn": function, "FunctionName": "task"}
    environment = {
        **os.environ,
        **variables,
        **lambda_runtime.execution_credentials(of_role),
        **setting("worker_environment", {}),
        "HUNDREDFOLD_SCRATCH": str(folder / "scratch"),
    }
    with (folder / "output.txt").open("wb") as output:
        return subprocess.Popen(
            [*setting("worker_program", None), *command],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )


def check_start(role: str, image: str, group: str) -> None:
    """Raise DeniedError unless the role may pull the image and write the log, and it exists."""
    account, _, _, region = image.split(".")[:4]
    repository = image.partition("/")[2].partition("@")[0].partition(":")[0]
    with acting_as(role):
        check("ecr:GetAuthorizationToken", "*")
        for action in PULLING:
            check(action, f"arn:aws:ecr:{region}:{account}:repository/{repository}")
        for action in LOGGING:
            check(action, f"arn:aws:logs:{get_region()}:{get_account_id()}:log-group:{group}:*")
    if setting("worker_program", None) is None:
        raise DeniedError(f"CannotPullContainerError: {image} not found")


def _watch(
    arn: str, task: dict[str, Any], process: subprocess.Popen[bytes], scope: tuple[str, str]
) -> None:
    code = process.wait()
    status = exit_status(code)
    with request_scope(*scope):
        if ecs._mark_task_stopped(
            arn, task, "Essential container in task exited", "EssentialContainerExited", status
        ):
            return
        # StopTask has set the desired status before
        task.update(lastStatus="STOPPED", stoppedAt=ecs._iso())
        task["containers"][0].update(lastStatus="STOPPED", exitCode=status)


def exit_status(code: int) -> int:
    """Return the exit status of a container, as Docker reports it."""
    return code if code >= 0 else 128 - code


def stop_task(data: dict[str, Any]) -> Any:
    """Send SIGTERM to the process of a task, and SIGKILL after its stop timeout."""
    task = ecs._resolve_task(data["task"], ecs._cluster_name_from_arn(data["cluster"]))
    if not task:
        return error_response_json(
            "InvalidParameterException", "The referenced task was not found.", 400
        )
    process = processes.get(task["taskArn"])
    if process is not None and process.poll() is None and task["desiredStatus"] != "STOPPED":
        task.update(
            desiredStatus="STOPPED",
            stoppedReason=data.get("reason", "Task stopped by user"),
            stopCode="UserInitiated",
        )
        definition = ecs._task_defs[ecs._resolve_td_key(task["taskDefinitionArn"])]
        timeout = definition["containerDefinitions"][0].get("stopTimeout", DEFAULT_STOP_TIMEOUT_S)
        process.send_signal(signal.SIGTERM)
        threading.Thread(target=kill_after, args=(process, int(timeout)), daemon=True).start()
    return json_response({"task": ecs._sanitize(task)})


def kill_after(process: subprocess.Popen[bytes], timeout: int) -> None:
    """Kill a process and its children after some seconds, unless it has ended."""
    try:
        process.wait(timeout)
    except subprocess.TimeoutExpired:
        for child in psutil.Process(process.pid).children(recursive=True):
            child.kill()
        process.kill()


def _with_tasks(found: Callable[..., str]) -> Callable[..., str]:
    """Name the resources of the actions of tasks as AWS does: the cluster is a condition."""

    def resource(service: str, *rest: Any, **named: Any) -> str:
        if service != "ecs":
            return found(service, *rest, **named)
        data = _body_of(rest, named)
        if "taskDefinition" in data:
            return str(data["taskDefinition"])
        if tasks := data.get("tasks") or ([data["task"]] if "task" in data else []):
            return str(tasks[0])
        return "*" if "startedBy" in data else found(service, *rest, **named)

    return resource


def _with_cluster(found: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    def context(service: str, *rest: Any, **named: Any) -> dict[str, Any]:
        keys = dict(found(service, *rest, **named))
        if service == "ecs":
            keys["ecs:cluster"] = _body_of(rest, named).get("cluster", "")
        return keys

    return context


def _body_of(rest: tuple[Any, ...], named: Mapping[str, Any]) -> dict[str, Any]:
    body = next((each for each in (*rest, *named.values()) if isinstance(each, bytes)), b"")
    found = json.loads(body or b"{}")
    return found if isinstance(found, dict) else {}
