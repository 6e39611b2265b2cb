"""The log of functions and workers: a JSON object a line, with the keys of the work at hand."""

from __future__ import annotations

from aws_lambda_powertools import Logger

log = Logger()
