"""`hundredfold init`: a small working project, copied from template/ under a new name."""

from __future__ import annotations

import importlib.util
import keyword
import random
import sys
from importlib.resources import files
from pathlib import Path

from ..errors import UsageError

TEMPLATE_NAME = "my_job"  # the package's name in the template, which is replaced
FILES = (
    "__init__.py",
    "contracts.py",
    "model.py",
    "job.py",
    "queries/sales.sql",
    "test_model.py",
    "README.md",
)


def scaffold(name: str, into: Path | None = None) -> Path:
    """Create the package `name`; UsageError for an invalid name or an existing folder."""
    if not name.isidentifier() or not name.islower() or keyword.iskeyword(name):
        raise UsageError(
            f"{name!r} cannot be the name of a package",
            hint="wanted lower-case letters, digits and _, such as my_job",
        )
    folder = (into or Path.cwd()) / name
    if folder.exists():
        raise UsageError(f"{folder} already exists", hint="choose another name, or remove it")
    if name in sys.stdlib_module_names or importlib.util.find_spec(name) is not None:
        raise UsageError(
            f"a module {name!r} already exists, and a package of that name would hide it",
            hint="choose another name",
        )
    template = files("hundredfold.cli") / "template"
    try:
        for file in FILES:
            text = (template / f"{file}.txt").read_text(encoding="utf-8")
            path = folder / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text.replace(TEMPLATE_NAME, name), encoding="utf-8")
        (folder / "data").mkdir()
        (folder / "data" / "sales.csv").write_text(_sample_data(), encoding="utf-8")
    except OSError as error:
        raise UsageError(
            f"{folder} cannot be written: {error.strerror}",
            hint="change to a folder that you can write to",
        ) from error
    return folder


def _sample_data() -> str:
    """Return CSV text: weekly sales of 60 shops and 5 products, three rows outside the contract."""
    chance = random.Random(7)
    lines = ["week,shop,product,price,quantity"]
    for shop in range(60):
        for product in ("apples", "bread", "coffee", "milk", "rice"):
            base, elasticity = chance.uniform(2, 9), chance.uniform(-2.6, -0.8)
            for week in range(1, 53):
                price = base * chance.choice((0.85, 0.95, 1.0, 1.0, 1.1))
                quantity = 400 * (price / base) ** elasticity * chance.lognormvariate(0, 0.15)
                lines.append(f"{week},S{shop:03d},{product},{price:.2f},{quantity:.0f}")
    lines[100] = "48,S001,bread,-3.10,220"
    lines[2000] = "24,,rice,4.20,310"
    lines[9000] = "4,S034,coffee,five,180"
    return "\n".join(lines) + "\n"
