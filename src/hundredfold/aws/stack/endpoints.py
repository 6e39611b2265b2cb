"""Endpoints of the services in the VPC of a stack's subnets, in place of a NAT."""

from __future__ import annotations

from collections.abc import Iterator

from aws_cdk import Stack, aws_ec2
from constructs import Construct

from .settings import Settings

GATEWAYS = ("s3", "dynamodb")  # endpoints in route tables, which cost nothing
SERVICES = ("sqs", "athena", "glue", "lambda", "logs")  # that functions call
OF_TASKS = ("ecr.api", "ecr.dkr", "ecs")  # that ECS needs to start tasks, and `step` to do so
OF_JOBS = ("ecs-agent", "ecs-telemetry", "batch")  # of instances, and of `step`


def make_endpoints(scope: Construct, settings: Settings) -> None:
    """Create the endpoints that the functions and the tasks of a stack need."""
    region = Stack.of(scope).region
    for service in GATEWAYS:
        aws_ec2.CfnVPCEndpoint(
            scope,
            f"{_name(service)}Endpoint",
            vpc_endpoint_type="Gateway",
            vpc_id=str(settings.vpc),
            service_name=f"com.amazonaws.{region}.{service}",
            route_table_ids=list(settings.route_tables),
        )
    for service in _services(settings):
        aws_ec2.CfnVPCEndpoint(
            scope,
            f"{_name(service)}Endpoint",
            vpc_endpoint_type="Interface",
            vpc_id=str(settings.vpc),
            service_name=f"com.amazonaws.{region}.{service}",
            subnet_ids=list(settings.subnets),
            security_group_ids=list(settings.security_groups),
            private_dns_enabled=True,
        )


def _services(settings: Settings) -> Iterator[str]:
    yield from SERVICES
    if settings.tracing:
        yield "xray"
    if settings.fleets:
        yield from OF_TASKS
    if {"managed", "batch"} & set(settings.fleets):
        yield from OF_JOBS


def _name(service: str) -> str:
    """Return the name of a construct: EcrApi for ecr.api."""
    return service.replace(".", " ").replace("-", " ").title().replace(" ", "")
