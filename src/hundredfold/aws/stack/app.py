"""A CDK app of one stack with one job: `python -m hundredfold.aws.stack.app`, in a process of its
own.

Told by the JSON file that HUNDREDFOLD_STACK_FILE names: {"stack", "code", "settings"}. The assembly
goes where CDK_OUTDIR says.
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
from .settings import OURS, TOLD


def make_app(told: Mapping[str, Any], **app: Any) -> App:
    """The app, with everything that cdk-nag has to say against it: it does not synthesize while
    there is any.
    """
    made = App(**app)
    Validations.of(made).add_plugins(AwsSolutionsChecks(made))
    stack = Stack(made, told["stack"], description=f"{OURS}{told['settings']['job']}")
    Hundredfold(stack, "Job", code=told["code"], **told["settings"])
    return made


def main() -> None:
    """Synthesize; what is wrong with the job or the settings is told on stdout, as JSON, to whoever
    started this.
    """
    try:
        make_app(json.loads(Path(os.environ[TOLD]).read_text(encoding="utf-8"))).synth()
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
