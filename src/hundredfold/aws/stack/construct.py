"""One job on AWS, for a team's own CDK app:

    from hundredfold.aws.stack import Hundredfold

    Hundredfold(self, "Pricing", job="tariffs.job:job", code="build/tariffs.zip")

`code` is what `hundredfold package tariffs.job:job` made. The job is imported here too: the state
machine is made of its stages.
"""

from __future__ import annotations

import re
from typing import Any, Unpack

from aws_cdk import CfnOutput, Names, Stack, Tags
from constructs import Construct

from ..._package import VERSION
from ...errors import UsageError
from ...runs.job_loader import load_job
from ..deploy.package import fingerprint_of
from .alarms import Watched, make_alarms
from .functions import code_of, feed_bury, feed_work, kinds, make_function
from .permissions import Resources, of_bury, of_step, of_work
from .queues import let_s3_send, make_queues
from .settings import Choices, Settings
from .state_machine import make_machine
from .storage import make_bucket, make_database, make_table, make_workgroup, tell_of_objects
from .uploads import start_on_uploads


class Hundredfold(Construct):
    """The bucket, queues, functions, table, Glue database, workgroup and state machine of one job;
    one in each stack.

    `code`: a folder or zip that `hundredfold package` made, the address of an image in ECR, or an
    aws_lambda.Code. Further keywords are the fields of `Settings`, which tells what each means.
    UsageError names all that cannot be; JobError if the job cannot be imported.

    What a team may build upon: `bucket`, `table`, `queue`, `dead`, `step`, `work`, `bury`,
    `machine`.
    """

    def __init__(
        self, scope: Construct, id: str, *, job: str, code: Any, **choices: Unpack[Choices]
    ) -> None:
        super().__init__(scope, id)
        self.settings = Settings.of({"job": job, **choices})
        self.job = load_job(job)
        stack = Stack.of(self)
        _one_in_each(stack)
        prefix = self.settings.name_prefix
        self.label = prefix or _label(stack)
        self.database = self.label.replace("-", "_")
        named = {
            kind: f"{prefix}-{kind}" if prefix else None
            for kind in ("step", "work", "bury", "dead", "runs", "run")
        }

        self.bucket = make_bucket(self, self.settings)
        self.table = make_table(self, named["runs"])
        self.queue, self.dead = make_queues(self, self.settings, (named["work"], named["dead"]))
        make_database(self, self.database)
        make_workgroup(self, self.label, self.bucket, self.settings)
        uploads = self.settings.uploads(
            [source.name for source in self.job.sources], self.bucket.bucket_name
        )
        self._notices(own_uploads=bool(uploads) and not self.settings.watched)

        things = Resources(
            self,
            self.settings,
            self.bucket,
            self.table,
            self.queue,
            self.dead,
            self.database,
            self.label,
        )
        rights = (of_step(things), of_work(things), of_bury(things))
        self.code = fingerprint_of(code)
        package, environment = code_of(self, code, self.settings), self._environment()
        self.step, self.work, self.bury = (
            make_function(
                self, kind, package, self.settings, environment, list(grants), named[kind.name]
            )
            for kind, grants in zip(kinds(self.settings), rights, strict=True)
        )
        feed_work(self, self.work, self.queue, self.settings)
        feed_bury(self, self.bury, self.dead)
        self.machine = make_machine(
            self,
            self.job,
            things,
            self.step,
            (named["run"], f"/aws/vendedlogs/states/{self.label}"),
        )
        rules = start_on_uploads(self, self.machine, uploads)
        make_alarms(
            self, Watched(self.queue, self.dead, self.step, self.machine, rules), self.settings
        )
        self._outputs()
        Tags.of(self).add("hundredfold:job", job)
        Tags.of(self).add("hundredfold:stack", stack.stack_name)

    def _notices(self, *, own_uploads: bool) -> None:
        by_events = self.settings.trigger == "events"
        if by_events:
            let_s3_send(self.queue)
        tell_of_objects(self.bucket, self.queue if by_events else None, bridge=own_uploads)

    def _environment(self) -> dict[str, str]:
        """What every function knows of the stack; `hundredfold.aws.adapters.session.Place` reads
        it.
        """
        return {
            "HUNDREDFOLD_JOB": self.settings.job,
            "HUNDREDFOLD_BUCKET": self.bucket.bucket_name,
            "HUNDREDFOLD_TABLE": self.table.table_name,
            "HUNDREDFOLD_QUEUE": self.queue.queue_url,
            "HUNDREDFOLD_DEAD": self.dead.queue_url,
            "HUNDREDFOLD_DATABASE": self.database,
            "HUNDREDFOLD_WORKGROUP": self.label,
            "HUNDREDFOLD_CONCURRENCY": str(self.settings.workers),
            "HUNDREDFOLD_TRIGGER": self.settings.trigger,
            **({"HUNDREDFOLD_CODE": self.code} if self.code else {}),
        }

    def _outputs(self) -> None:
        """The same for whoever runs the job from elsewhere, by names that no path of constructs
        changes.
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
                "Trigger",
            )
        }
        outputs |= {
            "QueueUrl": self.queue.queue_url,
            "DeadUrl": self.dead.queue_url,
            "MachineArn": self.machine.state_machine_arn,
            "StepFunction": self.step.function_name,
            "WorkFunction": self.work.function_name,
            "BuryFunction": self.bury.function_name,
            "Version": VERSION,
        }
        if self.code:
            outputs["Code"] = self.code
        for name, value in outputs.items():
            CfnOutput(self, f"{name}Output", value=value).override_logical_id(name)


def _one_in_each(stack: Stack) -> None:
    """The outputs have fixed names, by which the command line finds what it needs: a second one
    would take the first one's place.
    """
    if sum(isinstance(construct, Hundredfold) for construct in stack.node.find_all()) > 1:
        raise UsageError(
            f"the stack {stack.stack_name} has a Hundredfold already",
            hint="give each job a Stack of its own: an app can have many",
        )


def _label(stack: Stack) -> str:
    """The stack's name as Glue and Athena can bear it; no other stack of the account has it."""
    return re.sub(
        r"[^a-z0-9-]",
        "-",
        Names.unique_resource_name(
            stack, max_length=40, separator="-", allowed_special_characters="-"
        ).lower(),
    )
