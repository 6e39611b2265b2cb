"""A stack synthesized in this process, for tests that inspect its template or deploy it to the
emulator.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from hundredfold.aws.deploy.node import NodeError, find_node

JOB = "tariffs.job:job"


@contextmanager
def cdk_app() -> Iterator[Any]:
    """Return the module of the app, with the CDK's Node in this process's environment; skip the
    test without one.
    """
    # only located, not imported: the import takes the first Node that it finds
    if find_spec("aws_cdk") is None:
        pytest.skip("the CDK is not installed: pip install 'hundredfold[deploy]'")
    try:
        environment = find_node().environment()
    except NodeError as error:
        pytest.skip(str(error))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        from hundredfold.aws.stack import app

        yield app


def nothing(folder: Path) -> Path:
    """Write a package that exists, and contains nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "nothing.py").write_text("")
    return folder


def synthesize(app: Any, out: Path, stack: str, settings: Mapping[str, Any]) -> Path:
    """Return the assembly folder of one stack, whose functions contain nothing."""
    app.make_app(
        {"stack": stack, "code": str(nothing(out / "code")), "settings": settings},
        outdir=str(out / "cdk.out"),
    ).synth()
    return out / "cdk.out"
