"""A stack synthesized in this process, for the tests that look at its template or put it into the
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
    """The module of the app, with the CDK's Node in this process's environment; the test is skipped
    where there is none.
    """
    if (
        find_spec("aws_cdk") is None
    ):  # looked for and not imported: it takes the first Node that it finds
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
    """A package that is there, and no more."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "nothing.py").write_text("")
    return folder


def synthesize(app: Any, out: Path, stack: str, settings: Mapping[str, Any]) -> Path:
    """The assembly of one stack, whose functions hold nothing; its folder."""
    app.make_app(
        {"stack": stack, "code": str(nothing(out / "code")), "settings": settings},
        outdir=str(out / "cdk.out"),
    ).synth()
    return out / "cdk.out"
