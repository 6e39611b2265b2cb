"""Fleets on instances of EC2 that AWS starts for tasks and ends: ECS Managed Instances, and Batch
with Spot. Without tasks there is no instance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from aws_cdk import Stack, aws_batch, aws_ecs, aws_iam
from constructs import Construct

from ..fleets.ecs import CONTAINER
from .nag_suppressions import accept_finding
from .permissions import Resources, role
from .settings import Settings

# families of instances that Batch chooses from, newest first
FAMILIES = {
    "arm64": ("c8g", "m8g", "c7g", "m7g", "c6g", "m6g"),
    "x86_64": ("c7i", "m7i", "c6i", "m6i", "c6a", "m6a"),
}
MANUFACTURERS = {"arm64": ["amazon-web-services"], "x86_64": ["intel", "amd"]}
IDLE_INSTANCE_S = 60  # before an instance without tasks is ended
DISK_GB = 30
MANAGED_POLICY_REASON = "AWS maintains the permissions that its own agent and its service need"
BATCH_GRACE_S = 20  # of the units at work: Batch kills a job 30 seconds after its termination


def make_managed_provider(resources: Resources, cluster: Any) -> Any:
    """Create the capacity provider of ECS Managed Instances, with its two roles; return it."""
    scope, settings = resources.scope, resources.settings
    profile, instance_role = _instance_profile(
        scope, "ManagedInstance", "AmazonECSInstanceRolePolicyForManagedInstances"
    )
    infrastructure = role(
        scope, "ManagedInfrastructureRole", aws_iam.ServicePrincipal("ecs.amazonaws.com")
    )
    _attach(infrastructure, "AmazonECSInfrastructureRolePolicyForManagedInstances")
    infrastructure.add_to_policy(
        # the policy of AWS allows roles of one name only
        aws_iam.PolicyStatement(
            sid="PassInstanceRole",
            actions=["iam:PassRole"],
            resources=[instance_role.role_arn],
            conditions={"StringEquals": {"iam:PassedToService": "ec2.amazonaws.com"}},
        )
    )
    provider = aws_ecs.CfnCapacityProvider(
        scope,
        "ManagedProvider",
        cluster_name=cluster.ref,
        managed_instances_provider={
            "infrastructureRoleArn": infrastructure.role_arn,
            "infrastructureOptimization": {"scaleInAfter": IDLE_INSTANCE_S},
            "instanceLaunchTemplate": _launch_template(settings, profile),
        },
    )
    provider.node.add_dependency(infrastructure)
    return provider


def _launch_template(settings: Settings, profile: Any) -> dict[str, Any]:
    return {
        "ec2InstanceProfileArn": profile.attr_arn,
        "capacityOptionType": "ON_DEMAND",
        "networkConfiguration": {
            "subnets": list(settings.subnets),
            "securityGroups": list(settings.security_groups),
        },
        "storageConfiguration": {"storageSizeGiB": DISK_GB},
        "instanceRequirements": {
            "vCpuCount": {"min": settings.task_cores},
            "memoryMiB": {"min": settings.memory_of_task},
            "cpuManufacturers": MANUFACTURERS[settings.architecture],
        },
    }


def make_batch(
    resources: Resources, roles: Sequence[Any], variables: Mapping[str, str], logs: Any
) -> tuple[Any, Any]:
    """Create the queue and the definition of the jobs; return both. roles: of the worker, and of
    its start.
    """
    scope, settings = resources.scope, resources.settings
    profile, _ = _instance_profile(
        scope, "BatchInstance", "service-role/AmazonEC2ContainerServiceforEC2Role"
    )
    computing = aws_batch.CfnComputeEnvironment(
        scope,
        "BatchInstances",
        type="MANAGED",
        replace_compute_environment=False,
        compute_resources={
            "type": "SPOT",
            "allocationStrategy": "SPOT_PRICE_CAPACITY_OPTIMIZED",
            "minvCpus": 0,
            "maxvCpus": settings.batch_cores,
            "instanceTypes": list(FAMILIES[settings.architecture]),
            "instanceRole": profile.attr_arn,
            "subnets": list(settings.subnets),
            "securityGroupIds": list(settings.security_groups),
        },
    )
    queue = aws_batch.CfnJobQueue(
        scope,
        "BatchQueue",
        priority=1,
        compute_environment_order=[
            {"order": 1, "computeEnvironment": computing.attr_compute_environment_arn}
        ],
    )
    definition = aws_batch.CfnJobDefinition(
        scope,
        "BatchJob",
        type="container",
        platform_capabilities=["EC2"],
        container_properties=_job(resources, roles, variables, logs),
    )
    return queue, definition


def _job(
    resources: Resources, roles: Sequence[Any], variables: Mapping[str, str], logs: Any
) -> dict[str, Any]:
    """Return the container of a job: that of a task, in the terms of Batch."""
    settings = resources.settings
    return {
        "image": settings.worker_image,
        "command": ["--workers", str(settings.task_cores)],
        "jobRoleArn": roles[0].role_arn,
        "executionRoleArn": roles[1].role_arn,
        "resourceRequirements": [
            {"type": "VCPU", "value": str(settings.task_cores)},
            {"type": "MEMORY", "value": str(settings.memory_of_task)},
        ],
        "readonlyRootFilesystem": True,
        "linuxParameters": {"initProcessEnabled": True},
        "volumes": [{"name": "scratch"}],
        "mountPoints": [
            {
                "sourceVolume": "scratch",
                "containerPath": variables["HUNDREDFOLD_SCRATCH"],
                "readOnly": False,
            }
        ],
        "environment": [
            {"name": name, "value": value}
            for name, value in {**variables, "HUNDREDFOLD_GRACE": str(BATCH_GRACE_S)}.items()
        ],
        "logConfiguration": {
            "logDriver": "awslogs",
            "options": {
                "awslogs-group": logs.log_group_name,
                "awslogs-region": Stack.of(resources.scope).region,
                "awslogs-stream-prefix": CONTAINER,
            },
        },
    }


def _instance_profile(scope: Construct, name: str, policy: str) -> tuple[Any, Any]:
    """Create the role of instances and its profile; return the profile and the role."""
    created = role(scope, f"{name}Role", aws_iam.ServicePrincipal("ec2.amazonaws.com"))
    _attach(created, policy)
    return aws_iam.CfnInstanceProfile(scope, f"{name}Profile", roles=[created.role_name]), created


def _attach(to: Any, policy: str) -> None:
    """Attach a policy of AWS to a role."""
    to.add_managed_policy(aws_iam.ManagedPolicy.from_aws_managed_policy_name(policy))
    accept_finding(
        to, f"IAM4[Policy::arn:<AWS::Partition>:iam::aws:policy/{policy}]", MANAGED_POLICY_REASON
    )
