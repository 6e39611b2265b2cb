"""A CDK app of one stack with one job, run in its own process: `python -m
hundredfold.aws.stack.app`.

It reads the JSON file named by HUNDREDFOLD_STACK_FILE: {"stack", "code", "worker_code",
"settings"}. The assembly is written to CDK_OUTDIR.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aws_cdk import App, Stack, Validations
from cdk_nag import AwsSolutionsChecks

from ...errors import HundredfoldError
from .construct import Hundredfold
from .nag_suppressions import accepts_resources
from .settings import DESCRIPTION_PREFIX, STACK_FILE_ENV


def make_app(settings: Mapping[str, Any], **app_options: Any) -> App:
    """Return the app, which does not synthesize while cdk-nag has findings.

    An old CDK, which cannot accept the findings that a person has reviewed, is not checked.
    """
    app = App(**app_options)
    if accepts_resources():
        Validations.of(app).add_plugins(AwsSolutionsChecks(app))
    stack = Stack(
        app, settings["stack"], description=f"{DESCRIPTION_PREFIX}{settings['settings']['job']}"
    )
    worker_code = settings.get("worker_code")
    Hundredfold(
        stack, "Job", code=settings["code"], worker_code=worker_code, **settings["settings"]
    )
    return app


def main() -> None:
    """Synthesize the app; print an error of the job or the settings as JSON on stdout."""
    try:
        make_app(json.loads(Path(os.environ[STACK_FILE_ENV]).read_text(encoding="utf-8"))).synth()
    except HundredfoldError as error:
        sys.stdout.write(
            json.dumps(
                {
                    "kind": type(error).__name__,
                    "message": error.message,
                    "problems": error.problems,
                    "hint": error.hint,
                }
            )
        )
        sys.exit(1)


if __name__ == "__main__":
    main()
