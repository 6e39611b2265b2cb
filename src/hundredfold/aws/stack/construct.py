"""One job on AWS, as a construct for a team's own CDK app:

    from hundredfold.aws.stack import Hundredfold

    Hundredfold(self, "Pricing", job="tariffs.job:job", code="build/package.zip",
                worker_code="build/worker.zip")

`code` and `worker_code` are the zips of `hundredfold package tariffs.job:job`. The job is also
imported when the app is synthesized: the state machine is made of its stages.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Unpack

from aws_cdk import ArnFormat, CfnOutput, Duration, Names, Stack, Tags, aws_iam
from constructs import Construct

from ..._package import VERSION
from ...errors import UsageError
from ...ports.run_facts import HOME_FORMAT
from ...runs.job_loader import load_job
from ..archive import fingerprint_of
from ..functions.starting_workers import (
    DISPATCHER_ENV,
    TIMEOUT_ENV,
    WORK_FUNCTION_ENV,
)
from ..lambda_platform import DIRECT_WORKERS_ENV, cores_of
from .alarms import WatchedResources, make_alarms
from .costs import STACK_TAG, make_cost_alarm
from .dashboard import make_dashboard
from .ended_executions import record_ended_executions
from .endpoints import make_endpoints
from .fleets import StackFleets, make_fleets, task_size
from .lake_formation import grant_tables
from .lambda_functions import (
    IMAGE_ADDRESS,
    MAX_START_AGE_S,
    FunctionSpec,
    connect_dead_letter_queue,
    connect_work_queue,
    dispatch_spec,
    function_code,
    function_specs,
    make_function,
)
from .permissions import (
    Grant,
    Resources,
    dead_letter_permissions,
    poller_permissions,
    publish_permissions,
    start_permissions,
    step_permissions,
    work_permissions,
)
from .queues import allow_s3_to_send, make_queues
from .settings import Location, Settings, SettingsKeywords
from .state_machine import make_state_machine
from .storage import configure_notifications, make_bucket, make_database, make_table, make_workgroup
from .uploads import start_on_uploads

FUNCTIONS = ("step", "work", "dead_letter", "dispatch")


class Hundredfold(Construct):
    """The bucket, queues, functions, table, Glue database, workgroup and state machine of one job.

    A stack can contain one. `code`: a folder or zip made by `hundredfold package`, the address of
    an image in ECR, or an aws_lambda.Code; `worker_code`: that of the workers, `code` if omitted.
    Further keywords are the fields of `Settings`, which
    documents them. Raises UsageError with all invalid settings, and JobError if the job cannot be
    imported.

    A team may build on the attributes `bucket`, `table`, `queue`, `dead`, `step`, `work`,
    `dead_letter`, `machine`.
    """

    def __init__(
        self,
        scope: Construct,
        id: str,
        *,
        job: str,
        code: Any,
        worker_code: Any = None,
        **options: Unpack[SettingsKeywords],
    ) -> None:
        super().__init__(scope, id)
        self.settings = Settings.from_mapping({"job": job, **options})
        self.job = load_job(job)
        stack = Stack.of(self)
        _refuse_second(stack)
        prefix = self.settings.name_prefix
        self.label = prefix or _label(stack)
        self.database = self.label.replace("-", "_")
        self.code = fingerprint_of(code)
        names = {
            name: f"{prefix}-{name.replace('_', '-')}" if prefix else None
            for name in (*FUNCTIONS, "dead", "runs", "run", "fleet", "tasks")
        }
        self._apply_boundary()
        uploads = self._make_storage(names)
        resources = Resources(
            self,
            self.settings,
            self.bucket,
            self.table,
            self.queue,
            self.dead,
            self.database,
            self.label,
        )
        codes = code, _worker_code(code, worker_code)
        self.fleets = self._make_fleets(resources, names, code)
        self.step, self.work, self.dead_letter = self._make_functions(codes, resources, names)
        connect_dead_letter_queue(self, self.dead_letter, self.dead)
        self.machine = make_state_machine(
            self,
            self.job,
            resources,
            self.step,
            (names["run"], f"/aws/vendedlogs/states/{self.label}"),
        )
        self._watch(uploads, names["runs"])
        self._outputs()
        Tags.of(self).add("hundredfold:job", job)
        Tags.of(self).add(STACK_TAG, stack.stack_name)

    def _make_storage(self, names: Mapping[str, str | None]) -> Mapping[str, Location]:
        """Create the bucket, table, queues, database and workgroup; return the upload locations."""
        self.bucket = make_bucket(self, self.settings)
        self.table = make_table(self, self.settings, names["runs"])
        self.queue, self.dead = make_queues(self, self.settings, (names["work"], names["dead"]))
        self._glue_database = make_database(self, self.database)
        make_workgroup(self, self.label, self.bucket, self.settings)
        uploads = self.settings.upload_locations(
            [source.name for source in self.job.sources], self.bucket.bucket_name
        )
        self._configure_notifications(
            own_uploads=bool(uploads) and not self.settings.watched_locations
        )
        return uploads

    def _make_fleets(
        self, resources: Resources, names: Mapping[str, str | None], code: Any
    ) -> StackFleets | None:
        """Create the fleets of the settings, if any. code: of the steps."""
        if not self.settings.fleets:
            return None
        sealed = bool(self.code) and IMAGE_ADDRESS.fullmatch(str(code)) is None
        return make_fleets(resources, self._environment(), names, sealed=sealed)

    def _make_functions(
        self, codes: tuple[Any, Any], resources: Resources, names: Mapping[str, str | None]
    ) -> list[Any]:
        """Create the functions step, work and dead_letter, each with its permissions.

        `codes`: of the steps, and of the workers.
        """
        package = function_code(self, codes[0], self.settings)
        workers = package if codes[1] is codes[0] else function_code(self, codes[1], self.settings)
        environment = self._environment()

        def make(
            spec: FunctionSpec, grants: Iterable[Grant], more: Mapping[str, str] | None = None
        ) -> Any:
            return make_function(
                self,
                spec,
                package if spec.name == "step" else workers,
                self.settings,
                environment | dict(more or {}),
                list(grants),
                names[spec.name],
            )

        step, work, dead_letter = function_specs(self.settings)
        worker = make(work, work_permissions(resources))
        self.mapping = connect_work_queue(self, worker, self.queue, self.settings)
        starting: Iterable[Grant] = ()
        starter: dict[str, str] = {}
        if self.settings.raise_pollers:
            starting = poller_permissions(self._mapping_arn())
            starter = {f"HUNDREDFOLD_{k.upper()}": v for k, v in self._raised_pollers().items()}
        if self.settings.trigger == "direct":
            dispatcher = make(
                dispatch_spec(),
                start_permissions(worker.function_arn),
                {WORK_FUNCTION_ENV: worker.function_name},
            )
            starting = start_permissions(dispatcher.function_arn)
            starter = self._starter(dispatcher, worker)
        if self.fleets is not None:
            starting = [*starting, *self.fleets.grants]
            starter |= self.fleets.environment
        granted = [*step_permissions(resources), *publish_permissions(resources, self.job)]
        return [
            make(step, [*granted, *starting], starter),
            worker,
            make(dead_letter, dead_letter_permissions(resources)),
        ]

    def _apply_boundary(self) -> None:
        """Bound the permissions of every role."""
        if self.settings.permissions_boundary:
            boundary = aws_iam.ManagedPolicy.from_managed_policy_arn(
                self, "Boundary", self.settings.permissions_boundary
            )
            aws_iam.PermissionsBoundary.of(self).apply(boundary)

    def _watch(self, uploads: Mapping[str, Location], dashboard: str | None) -> None:
        """Create the rules of EventBridge, the alarms, the dashboard of a name, and what an
        organisation asks for: endpoints, grants and a budget.
        """
        if self.settings.vpc:
            make_endpoints(self, self.settings)
        if self.settings.lake_formation:
            roles = [("Step", self.step.role), ("Machine", self.machine.role)]
            grant_tables(self, self.settings, self._glue_database, roles)
        record_ended_executions(self, self.machine, self.step)
        rules = start_on_uploads(self, self.machine, uploads)
        watched = WatchedResources(
            self.queue,
            self.dead,
            self.step,
            self.work,
            self.machine,
            rules,
            self.fleets.queue if self.fleets else None,
            tuple(self.settings.fleets),
        )
        make_alarms(self, watched, self.settings)
        if self.settings.dashboard:
            make_dashboard(self, watched, dashboard)
        if self.settings.monthly_budget:
            make_cost_alarm(self, self.settings)

    def _raised_pollers(self) -> dict[str, str]:
        """Return the values by which runs raise pollers."""
        pollers = self.settings.pollers or ()
        return {"Pollers": ",".join(map(str, pollers)), "Mapping": self.mapping.ref}

    def _mapping_arn(self) -> str:
        arn = Stack.of(self).format_arn(
            service="lambda",
            resource="event-source-mapping",
            resource_name=self.mapping.ref,
            arn_format=ArnFormat.COLON_RESOURCE_NAME,
        )
        return str(arn)

    def _starter(self, dispatcher: Any, worker: Any) -> dict[str, str]:
        """Return the environment by which `step` starts workers.

        A start that Lambda cannot make soon, or that fails, is dropped: the queue has the messages.
        """
        for function in (worker, dispatcher):
            function.configure_async_invoke(
                retry_attempts=0, max_event_age=Duration.seconds(MAX_START_AGE_S)
            )
        return {
            DISPATCHER_ENV: dispatcher.function_name,
            DIRECT_WORKERS_ENV: str(self.settings.direct_workers),
            TIMEOUT_ENV: str(self.settings.timeout),
        }

    def _configure_notifications(self, *, own_uploads: bool) -> None:
        by_events = self.settings.trigger == "events"
        if by_events:
            allow_s3_to_send(self.queue)
        configure_notifications(
            self.bucket, self.queue if by_events else None, event_bridge=own_uploads
        )

    def _environment(self) -> dict[str, str]:
        """Return the environment of every function; `StackResources.from_environment` reads it."""
        return {
            "HUNDREDFOLD_JOB": self.settings.job,
            "HUNDREDFOLD_BUCKET": self.bucket.bucket_name,
            "HUNDREDFOLD_TABLE": self.table.table_name,
            "HUNDREDFOLD_QUEUE": self.queue.queue_url,
            "HUNDREDFOLD_DEAD": self.dead.queue_url,
            "HUNDREDFOLD_DATABASE": self.database,
            "HUNDREDFOLD_WORKGROUP": self.label,
            "HUNDREDFOLD_CONCURRENCY": str(self.settings.workers),
            "HUNDREDFOLD_CORES": str(cores_of(self.settings.memory)),
            "HUNDREDFOLD_TRIGGER": self.settings.trigger,
            "HUNDREDFOLD_QUIET": str(self.settings.upload_quiet),
            **({"HUNDREDFOLD_CODE": self.code} if self.code else {}),
        }

    def _outputs(self) -> None:
        """Export the same values as outputs, under names that do not depend on the construct's
        path.
        """
        environment = self._environment()
        outputs = {
            name: environment[f"HUNDREDFOLD_{name.upper()}"]
            for name in (
                "Job",
                "Bucket",
                "Table",
                "Database",
                "Workgroup",
                "Concurrency",
                "Cores",
                "Trigger",
                "Quiet",
            )
        }
        outputs |= {
            "QueueUrl": self.queue.queue_url,
            "DeadUrl": self.dead.queue_url,
            "MachineArn": self.machine.state_machine_arn,
            "StepFunction": self.step.function_name,
            "WorkFunction": self.work.function_name,
            "DeadLetterFunction": self.dead_letter.function_name,
            "Version": VERSION,
            "Format": str(HOME_FORMAT),
        }
        if self.settings.raise_pollers:
            outputs |= self._raised_pollers()
        if self.code:
            outputs["Code"] = self.code
        if self.fleets is not None:
            outputs |= {
                "Fleets": ",".join(self.settings.fleets),
                "TaskSize": str(task_size(self.settings)),
                "FleetQueueUrl": self.fleets.queue.queue_url,
            }
        for name, value in outputs.items():
            CfnOutput(self, f"{name}Output", value=value).override_logical_id(name)


def _worker_code(code: Any, worker_code: Any) -> Any:
    """Return the code of the workers.

    Raises:
        UsageError: the packages are of different builds, whose code a run would mix.
    """
    if worker_code is None:
        return code
    found = fingerprint_of(code), fingerprint_of(worker_code)
    if found[0] != found[1]:
        raise UsageError(
            f"code and worker_code are of different builds: {found[0] or 'an unknown one'} and "
            f"{found[1] or 'an unknown one'}",
            hint="pass package.zip and worker.zip of one call of hundredfold package",
        )
    return worker_code


def _refuse_second(stack: Stack) -> None:
    """Raise UsageError for a second Hundredfold in a stack.

    The outputs have fixed names, by which the command line finds the resources: a second construct
    would replace those of the first.
    """
    if sum(isinstance(construct, Hundredfold) for construct in stack.node.find_all()) > 1:
        raise UsageError(
            f"the stack {stack.stack_name} already has a Hundredfold",
            hint="give each job a Stack of its own: an app can have several",
        )


def _label(stack: Stack) -> str:
    """Return the stack's name in characters that Glue and Athena accept; it is unique in the
    account.
    """
    return re.sub(
        r"[^a-z0-9-]",
        "-",
        Names.unique_resource_name(
            stack, max_length=40, separator="-", allowed_special_characters="-"
        ).lower(),
    )
