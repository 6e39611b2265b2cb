"""The alarm of a stack's costs: a budget of AWS over the resources with the stack's tag."""

from __future__ import annotations

from aws_cdk import Stack, aws_budgets
from constructs import Construct

from .settings import Settings

STACK_TAG = "hundredfold:stack"
WARNING_PERCENT = 80  # of the budget, that is spent


def make_cost_alarm(scope: Construct, settings: Settings) -> None:
    """Notify the alarm topic when the costs of a month pass 80 % of the budget, and when the
    forecast passes all of it.

    AWS knows the costs of a tag only after the tag was activated as a cost allocation tag.
    """
    subscribers = [{"subscriptionType": "SNS", "address": settings.alarm_topic}]
    aws_budgets.CfnBudget(
        scope,
        "MonthlyBudget",
        budget={
            "budgetType": "COST",
            "timeUnit": "MONTHLY",
            "budgetLimit": {"amount": settings.monthly_budget, "unit": "USD"},
            "costFilters": {"TagKeyValue": [f"user:{STACK_TAG}${Stack.of(scope).stack_name}"]},
        },
        notifications_with_subscribers=[
            {
                "notification": {
                    "notificationType": kind,
                    "comparisonOperator": "GREATER_THAN",
                    "threshold": percent,
                    "thresholdType": "PERCENTAGE",
                },
                "subscribers": subscribers,
            }
            for kind, percent in (("ACTUAL", WARNING_PERCENT), ("FORECASTED", 100))
        ],
    )
