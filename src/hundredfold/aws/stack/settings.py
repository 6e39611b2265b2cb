"""The settings of a stack as one value of plain data, validated before anything is built.

This module does not import CDK: `hundredfold deploy` validates the settings before it starts Node,
and passes them on as JSON.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypedDict

from ...errors import UsageError
from ...job import NAME
from ..fleets.requests import FLEETS
from ..lambda_platform import (
    DEFAULT_QUIET_S,
    PYTHON,
    PYTHONS,
    WHEEL_ARCHITECTURES,
    WORKERS_PER_POLLER,
    cores_of,
    worker_shares,
)

# a name that CloudFormation resolves later: a team's app may pass one
TOKEN = r"\$\{Token\[[^\]]+\]\}"
REF = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
LOCATION = re.compile(
    rf"s3://(?P<bucket>[a-z0-9][a-z0-9.-]{{1,61}}[a-z0-9]|{TOKEN})(?:/(?P<prefix>[^*?]*))?"
)
TABLE = re.compile(r"glue://(?P<database>[a-z0-9_-]+)/(?P<table>[a-z0-9_-]+)")
PREFIX = re.compile(r"[a-z][a-z0-9-]{0,38}[a-z0-9]")
TOPIC = re.compile(rf"arn:[a-z-]+:sns:[^:]*:[^:]*:.+|{TOKEN}")
LAYER = re.compile(rf"arn:[a-z-]+:lambda:[^:]*:[^:]*:layer:[^:]+:\d+|{TOKEN}")
POLICY = re.compile(rf"arn:[a-z-]+:iam::[^:]*:policy/.+|{TOKEN}")
VPC = re.compile(rf"vpc-(?:[0-9a-f]{{8}}|[0-9a-f]{{17}})|{TOKEN}")
ROUTE_TABLE = re.compile(rf"rtb-(?:[0-9a-f]{{8}}|[0-9a-f]{{17}})|{TOKEN}")
SUBNET = re.compile(rf"subnet-(?:[0-9a-f]{{8}}|[0-9a-f]{{17}})|{TOKEN}")
SECURITY_GROUP = re.compile(rf"sg-(?:[0-9a-f]{{8}}|[0-9a-f]{{17}})|{TOKEN}")
IMAGE = re.compile(
    rf"\d{{12}}\.dkr\.ecr\.[a-z0-9-]+\.amazonaws\.com(?:\.cn)?/[a-z0-9._/-]+[:@][\w.:-]+|{TOKEN}"
)
KEY = re.compile(rf"arn:[a-z-]+:kms:[^:]*:[^:]*:key/.+|{TOKEN}")

# the environment variable with the path of the file by which `hundredfold deploy` passes the
# settings to the app
STACK_FILE_ENV = "HUNDREDFOLD_STACK_FILE"
DESCRIPTION_PREFIX = (
    # the description of every stack made by `hundredfold deploy` begins with this
    "Hundredfold: the job "
)
DEFAULT_WORKERS = 300  # concurrent workers by default
# settings of several values, of which one may be given as a text
LISTS = (
    "sources",
    "source_keys",
    "layers",
    "subnets",
    "security_groups",
    "fleets",
    "route_tables",
)
DEFAULT_TASK_MB = 2048  # of a task of a fleet, for each core
# MB of a task of Fargate by its cores: minimum, maximum, step
TASK_MEMORY = {
    1: (2048, 8192, 1024),
    2: (4096, 16_384, 1024),
    4: (8192, 30_720, 1024),
    8: (16_384, 61_440, 4096),
    16: (32_768, 122_880, 8192),
}


@dataclass(frozen=True, slots=True)
class Location:
    """A location in S3: a bucket, and a prefix of keys ("" for all keys)."""

    bucket: str
    prefix: str

    @classmethod
    def parse(cls, text: str) -> Location:
        """Parse s3://bucket/prefix; ValueError for anything else."""
        found = LOCATION.fullmatch(text)
        if found is None:
            raise ValueError(text)
        return cls(found["bucket"], found["prefix"] or "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings of one stack.

    `job`             module:attribute of the job, importable both where the stack is synthesized
                      and
                      in the package
    `memory`          of a worker, in MB (128 to 10240): 1769 MB come with one whole core, 8845 MB
                      with five, which share the messages of one call
    `step_memory`     of the function `step`, in MB (1024 to 10240): with more, it reads larger
                      sources itself, in place of Athena, and faster
    `timeout`         of a worker, in seconds (30 to 1800; more than 900 only where the region
                      allows it). The messages of a worker that crashes are
                      delivered again after six times as long
    `batch_size`      messages per call of a worker (1 to 10000); as many as it has cores if omitted
    `concurrency`     maximum concurrent workers (2 to 1000); 300 if neither this nor `pollers` is
                      given
    `pollers`         in place of it: (minimum, maximum) provisioned pollers (2 to 200, 2 to 10000),
                      each for 10 workers. They start faster, and the minimum is billed by the hour
    `raise_pollers`   a run raises the pollers and the last active one lowers them, so that none are
                      billed between runs
    `max_receives`    deliveries of a message before it is dead-lettered (1 to 1000)
    `architecture`    arm64 or x86_64
    `python`          Python version of the functions
    `trigger`         "direct" (the default, except with `pollers`): a message for each batch,
                      longest first, and the run starts the workers itself, all at once; "messages":
                      the queue starts them; "events": S3 sends an event for each batch
    `sources`         further locations to read: "s3://bucket/prefix/", or "glue://database/table"
                      together with the location of its files; the stack's own bucket is always
                      readable
    `source_keys`     ARNs of the KMS keys that encrypt those locations
    `start_on_upload` names of sources: a file uploaded below sources/NAME/ of the stack's bucket
                      starts
                      a run with that file as the source NAME; or {NAME: "s3://bucket/prefix/"},
                      locations in buckets that send their events to EventBridge; True for every
                      source
                      of the job
    `upload_quiet`    seconds without another upload after which one run starts with all that
                      arrived
    `keep_days`       retention of batches, query results and replaced objects; releases and runs
                      stay
    `log_days`        retention of logs
    `overdue`         seconds that a message may stay unprocessed before the alarm
    `scan_limit`      bytes that one query may scan (at least 10 MB) before Athena cancels it
    `alarm_topic`     ARN of the SNS topic that receives the alarms
    `name_prefix`     prefix of every resource name, for an organisation with naming rules; without
                      it
                      CloudFormation generates the names
    `tracing`         X-Ray for the functions and the state machine
    `layers`          ARNs of Lambda layers, for dependencies that the package leaves out
    `subnets`         ids of private subnets in which the functions run, with `security_groups`:
                      they need endpoints of S3, DynamoDB, SQS, Athena, Glue and Lambda, or a NAT
    `security_groups` ids of the security groups of the functions in those subnets
    `key`             ARN of the KMS key that encrypts the bucket, the queues, the table, the logs
                      and the query results, in place of keys of AWS
    `permissions_boundary`  ARN of the policy that bounds the permissions of every role
    `dashboard`       a dashboard of CloudWatch with the progress of runs
    `fleets`          fleets of containers that runs may ask for beside the functions: "fargate",
                      "fargate-spot", "managed" (ECS Managed Instances), "batch" (AWS Batch on EC2
                      Spot). They need `worker_image`, `subnets` and `security_groups`
    `worker_image`    address in ECR of the image of these workers, for this architecture
    `task_cores`      whole cores of a task of a fleet (1, 2, 4, 8 or 16)
    `task_memory`     of a task, in MB; 2048 for each core if omitted
    `batch_cores`     maximum cores of all jobs of the fleet "batch"
    `vpc`             id of the VPC of `subnets`, in which endpoints of all services are created
                      that the stack needs; with `route_tables`. Without it, the subnets have them,
                      or a NAT
    `route_tables`    ids of the route tables of the subnets, for the endpoints of S3 and DynamoDB
    `monthly_budget`  dollars of a month: the `alarm_topic` is notified when 80 % are spent, and
                      when more is forecast. Needs the cost allocation tag hundredfold:stack
    `lake_formation`  grants in Lake Formation on the stack's tables and on the Glue tables of
                      `sources`, where it governs the catalog
    """

    job: str
    memory: int = 8845
    step_memory: int = 3008
    timeout: int = 300
    batch_size: int | None = None
    concurrency: int | None = None
    pollers: tuple[int, int] | None = None
    raise_pollers: bool = False
    max_receives: int = 5
    architecture: str = "arm64"
    python: str = PYTHON
    trigger: str = ""
    sources: tuple[str, ...] = ()
    source_keys: tuple[str, ...] = ()
    start_on_upload: bool | Sequence[str] | Mapping[str, str] = False
    upload_quiet: int = DEFAULT_QUIET_S
    keep_days: int = 7
    log_days: int = 30
    overdue: int = 7200
    scan_limit: int | None = None
    alarm_topic: str | None = None
    name_prefix: str | None = None
    tracing: bool = True
    layers: tuple[str, ...] = ()
    subnets: tuple[str, ...] = ()
    security_groups: tuple[str, ...] = ()
    key: str | None = None
    permissions_boundary: str | None = None
    dashboard: bool = False
    fleets: tuple[str, ...] = ()
    worker_image: str | None = None
    task_cores: int = 1
    task_memory: int | None = None
    batch_cores: int = 256
    vpc: str | None = None
    route_tables: tuple[str, ...] = ()
    monthly_budget: int | None = None
    lake_formation: bool = False

    def __post_init__(self) -> None:
        """Raise UsageError with all invalid settings."""
        for name in LISTS:
            object.__setattr__(self, name, _texts(getattr(self, name)))
        if self.pollers is not None:
            object.__setattr__(self, "pollers", tuple(self.pollers))
        if not self.trigger:
            object.__setattr__(self, "trigger", "direct" if self.pollers is None else "messages")
        if not isinstance(self.start_on_upload, bool | Mapping):
            object.__setattr__(self, "start_on_upload", _texts(self.start_on_upload))
        checks = (_check_numbers, _check_texts, _check_locations, _check_network, _check_fleets)
        problems = [problem for check in checks for problem in check(self)]
        if problems:
            raise UsageError(
                "the settings of the stack are invalid",
                problems=problems,
                hint="hundredfold deploy --help documents each setting",
            )

    @classmethod
    def from_mapping(cls, settings: Mapping[str, Any]) -> Settings:
        """Return the settings of JSON or keywords; UsageError for an unknown name."""
        known = [f.name for f in fields(cls)]
        unknown = sorted(set(settings) - set(known))
        if unknown:
            raise UsageError(
                f"unknown settings of a stack: {', '.join(unknown)}",
                hint=f"the settings are {', '.join(known)}",
            )
        return cls(**settings)

    @property
    def workers(self) -> int:
        """The maximum number of concurrent workers."""
        return (
            self.pollers[1] * WORKERS_PER_POLLER
            if self.pollers
            else self.concurrency or DEFAULT_WORKERS
        )

    @property
    def mapped_workers(self) -> int:
        """The workers that the queue may invoke; with trigger "direct", only for what was lost."""
        return worker_shares(self.workers)[0] if self.trigger == "direct" else self.workers

    @property
    def direct_workers(self) -> int:
        """The workers that a run may start itself."""
        return worker_shares(self.workers)[1] if self.trigger == "direct" else 0

    @property
    def memory_of_task(self) -> int:
        """The memory of a task of a fleet, in MB."""
        return self.task_memory or DEFAULT_TASK_MB * self.task_cores

    @property
    def batching_window_s(self) -> int:
        """Seconds to gather a batch of messages; Lambda requires it above 10 messages."""
        return 1 if self.messages_per_call > 10 else 0

    @property
    def messages_per_call(self) -> int:
        """The messages that one call of a worker gets at most: by default one for each core."""
        return cores_of(self.memory) if self.batch_size is None else self.batch_size

    @property
    def visibility_timeout_s(self) -> int:
        """Seconds that a delivered message stays hidden.

        Six times the timeout, as AWS advises, so that a throttled call is retried within the lease.
        """
        return 6 * self.timeout + self.batching_window_s

    @property
    def locations(self) -> list[Location]:
        """The locations in S3."""
        return [Location.parse(text) for text in self.sources if not TABLE.fullmatch(text)]

    @property
    def tables(self) -> list[tuple[str, str]]:
        """The tables in Glue: (database, table)."""
        return [
            (found["database"], found["table"])
            for found in map(TABLE.fullmatch, self.sources)
            if found
        ]

    def upload_locations(self, sources: Iterable[str], bucket: str) -> dict[str, Location]:
        """Return the location of each source whose uploads start runs.

        It is below the stack's own bucket unless another is given.

        Raises:
            UsageError: a source is not among the job's `sources`.
        """
        known = list(sources)
        named = (
            list(self.start_on_upload)
            if not isinstance(self.start_on_upload, bool)
            else known
            if self.start_on_upload
            else []
        )
        unknown = sorted(set(named) - set(known))
        if unknown:
            raise UsageError(
                f"start_on_upload names {', '.join(unknown)}, which are not sources of the job; "
                f"its sources are {', '.join(known)}"
            )
        if isinstance(self.start_on_upload, Mapping):
            return self.watched_locations
        return {name: Location(bucket, f"sources/{name}/") for name in named}

    @property
    def watched_locations(self) -> dict[str, Location]:
        """The locations outside the stack's bucket whose uploads start runs."""
        settings = self.start_on_upload
        return (
            {name: Location.parse(text) for name, text in settings.items()}
            if isinstance(settings, Mapping)
            else {}
        )


class SettingsKeywords(TypedDict, total=False):
    """The keywords of the construct except the job: the fields of Settings, for type checkers."""

    memory: int
    step_memory: int
    timeout: int
    batch_size: int | None
    concurrency: int | None
    pollers: tuple[int, int] | None
    raise_pollers: bool
    max_receives: int
    architecture: str
    python: str
    trigger: str
    sources: tuple[str, ...]
    source_keys: tuple[str, ...]
    start_on_upload: bool | Sequence[str] | Mapping[str, str]
    upload_quiet: int
    keep_days: int
    log_days: int
    overdue: int
    scan_limit: int | None
    alarm_topic: str | None
    name_prefix: str | None
    tracing: bool
    layers: tuple[str, ...]
    subnets: tuple[str, ...]
    security_groups: tuple[str, ...]
    key: str | None
    permissions_boundary: str | None
    dashboard: bool
    fleets: tuple[str, ...]
    worker_image: str | None
    task_cores: int
    task_memory: int | None
    batch_cores: int
    vpc: str | None
    route_tables: tuple[str, ...]
    monthly_budget: int | None
    lake_formation: bool


@dataclass(frozen=True, slots=True)
class Bounds:
    """The bounds of a numeric setting."""

    name: str
    minimum: int
    maximum: int
    unit: str = ""

    def check(self, value: object) -> Iterator[str]:
        if (
            isinstance(value, int)
            and not isinstance(value, bool)
            and self.minimum <= value <= self.maximum
        ):
            return
        yield f"{self.name} is {value!r}, expected {self.minimum:,} to {self.maximum:,}{self.unit}"


BOUNDS = (
    Bounds("memory", 128, 10_240, " MB"),
    Bounds("step_memory", 1024, 10_240, " MB"),
    Bounds("timeout", 30, 1800, " seconds"),
    Bounds("max_receives", 1, 1000),
    Bounds("upload_quiet", 1, 3600, " seconds"),
    Bounds("keep_days", 1, 3650, " days"),
    Bounds("overdue", 60, 86_400, " seconds"),
    Bounds("batch_cores", 1, 10_000, " cores"),
)
BATCH_SIZE = Bounds("batch_size", 1, 10_000, " messages")
CONCURRENCY = Bounds("concurrency", 2, 1000, " workers")
MIN_POLLERS = Bounds("pollers' first", 2, 200)
MAX_POLLERS = Bounds("pollers' second", 2, 10_000)
MONTHLY_BUDGET = Bounds("monthly_budget", 1, 10_000_000, " dollars")
SCAN_LIMIT = Bounds("scan_limit", 10_000_000, 2**53, " bytes")
# the retention periods that CloudWatch allows
LOG_DAYS = (
    1,
    3,
    5,
    7,
    14,
    30,
    60,
    90,
    120,
    150,
    180,
    365,
    400,
    545,
    731,
    1096,
    1827,
    2192,
    2557,
    2922,
    3288,
    3653,
)


def _check_numbers(settings: Settings) -> Iterator[str]:
    for bounds in BOUNDS:
        yield from bounds.check(getattr(settings, bounds.name))
    if settings.log_days not in LOG_DAYS:
        yield f"log_days is {settings.log_days!r}, expected one of {', '.join(map(str, LOG_DAYS))}"
    if settings.batch_size is not None:
        yield from BATCH_SIZE.check(settings.batch_size)
    if settings.concurrency is not None:
        yield from CONCURRENCY.check(settings.concurrency)
    if settings.scan_limit is not None:
        yield from SCAN_LIMIT.check(settings.scan_limit)
    if settings.monthly_budget is not None:
        yield from MONTHLY_BUDGET.check(settings.monthly_budget)
        if settings.alarm_topic is None:
            yield "monthly_budget is given without alarm_topic, the topic that it notifies"
    yield from _check_pollers(settings)


def _check_pollers(settings: Settings) -> Iterator[str]:
    if not isinstance(settings.raise_pollers, bool):
        yield f"raise_pollers is {settings.raise_pollers!r}, expected True or False"
    if settings.pollers is None:
        if settings.raise_pollers is True:
            yield "raise_pollers is given without pollers, the minimum and the maximum"
        return
    if settings.trigger == "direct":
        yield "pollers are given, but with the trigger direct a run starts its workers itself"
    if settings.concurrency is not None:
        yield (
            "concurrency and pollers are both given, but exclude each other: pollers set the "
            "concurrency, 10 workers each"
        )
    if len(settings.pollers) != 2:
        yield (
            f"pollers is {settings.pollers!r}, expected two numbers, the minimum and the maximum, "
            "such as (2, 50)"
        )
        return
    minimum, maximum = settings.pollers
    yield from MIN_POLLERS.check(minimum)
    yield from MAX_POLLERS.check(maximum)
    if isinstance(minimum, int) and isinstance(maximum, int) and minimum > maximum:
        yield f"pollers is {settings.pollers!r}: the minimum exceeds the maximum"


def _check_texts(settings: Settings) -> Iterator[str]:
    yield from _check_choice("architecture", settings.architecture, tuple(WHEEL_ARCHITECTURES))
    yield from _check_choice("python", settings.python, PYTHONS)
    yield from _check_choice("trigger", settings.trigger, ("messages", "events", "direct"))
    yield from _check_pattern("job", settings.job, REF, "module:attribute, such as tariffs.job:job")
    yield from _check_pattern(
        "name_prefix",
        settings.name_prefix,
        PREFIX,
        "2 to 40 lower-case letters, digits and -, beginning with a letter",
    )
    yield from _check_pattern("alarm_topic", settings.alarm_topic, TOPIC, "the ARN of an SNS topic")
    yield from _check_pattern("key", settings.key, KEY, "the ARN of a KMS key")
    yield from _check_pattern(
        "permissions_boundary", settings.permissions_boundary, POLICY, "the ARN of an IAM policy"
    )
    for name in ("tracing", "dashboard", "lake_formation"):
        if not isinstance(value := getattr(settings, name), bool):
            yield f"{name} is {value!r}, expected True or False"


def _check_network(settings: Settings) -> Iterator[str]:
    for text in settings.subnets:
        yield from _check_pattern("a subnet", text, SUBNET, "its id, subnet-...")
    for text in settings.security_groups:
        yield from _check_pattern("a security group", text, SECURITY_GROUP, "its id, sg-...")
    if bool(settings.subnets) != bool(settings.security_groups):
        yield "subnets and security_groups are given together or not at all"
    yield from _check_pattern("vpc", settings.vpc, VPC, "its id, vpc-...")
    for text in settings.route_tables:
        yield from _check_pattern("a route table", text, ROUTE_TABLE, "its id, rtb-...")
    if bool(settings.vpc) != bool(settings.route_tables):
        yield "vpc and route_tables, which endpoints are created in, are given together or not"
    if settings.vpc is not None and not settings.subnets:
        yield "vpc is given without subnets, which its endpoints are for"


def _check_fleets(settings: Settings) -> Iterator[str]:
    for name in settings.fleets:
        yield from _check_choice("a fleet", name, FLEETS)
    yield from _check_pattern(
        "worker_image", settings.worker_image, IMAGE, "the address of an image in ECR"
    )
    if settings.fleets and settings.worker_image is None:
        yield "fleets are given without worker_image, the image of their workers"
    if settings.fleets and not settings.subnets:
        yield "fleets are given without subnets and security_groups, the network of their tasks"
    if settings.worker_image is not None and not settings.fleets:
        yield "worker_image is given without fleets, the workers that use it"
    if settings.task_cores not in TASK_MEMORY:
        cores = ", ".join(map(str, TASK_MEMORY))
        yield f"task_cores is {settings.task_cores!r}, expected one of {cores}"
        return
    least, most, step = TASK_MEMORY[settings.task_cores]
    memory = settings.memory_of_task
    if not isinstance(memory, int) or memory not in range(least, most + 1, step):
        yield (
            f"task_memory is {memory!r}, expected {least:,} to {most:,} MB in steps of {step:,} "
            f"for {settings.task_cores} cores"
        )


def _check_locations(settings: Settings) -> Iterator[str]:
    uploads = settings.start_on_upload
    for text in settings.sources:
        if not (isinstance(text, str) and TABLE.fullmatch(text)):
            yield from _check_pattern(
                "a source",
                text,
                LOCATION,
                "s3://bucket/prefix/ (without * and ?) or glue://database/table",
            )
    for text in uploads.values() if isinstance(uploads, Mapping) else ():
        yield from _check_pattern(
            "a location in start_on_upload", text, LOCATION, "s3://bucket/prefix/, without * and ?"
        )
    for name in uploads if not isinstance(uploads, bool) else ():
        yield from _check_pattern(
            "a name in start_on_upload", name, NAME, "the name of one of the job's sources"
        )
    for text in settings.layers:
        yield from _check_pattern("a layer", text, LAYER, "the ARN of a layer's version")
    for text in settings.source_keys:
        yield from _check_pattern("a source's key", text, KEY, "the ARN of a KMS key")


def _check_choice(name: str, value: object, expected: tuple[str, ...]) -> Iterator[str]:
    if value not in expected:
        yield f"{name} is {value!r}, expected {' or '.join(expected)}"


def _check_pattern(
    name: str, value: object, expected: re.Pattern[str], description: str
) -> Iterator[str]:
    if value is not None and not (isinstance(value, str) and expected.fullmatch(value)):
        yield f"{name} is {value!r}, expected {description}"


def _texts(value: Any) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)
