"""The code of a run: one version in one run, and other code only where that was said."""

from __future__ import annotations

import importlib
import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import hundredfold
from hundredfold import Job, Model, Publish, Source, open_run, resume, retry
from hundredfold.errors import JobError, StateError
from hundredfold.pipeline.runner import NullCallbacks
from hundredfold.runs.job_code import differences, read_job_code
from support.waits import HANG_S

PACKAGE = {
    "shop/__init__.py": "",
    "shop/job.py": """
        from pathlib import Path
        from hundredfold import Job, Model, Publish, Source
        from .model import price

        job = Job("shop", [Source("sales", path="sales.csv")],
                  [Model("m", ("k",), price, query="queries/all.sql")],
                  publish=Publish("out", "queries/out.sql", formats=("csv",)), max_failed=0.9)
    """,
    "shop/model.py": """
        import os
        from pathlib import Path
        from . import rates
        from .rates import RATE

        def price(rows):
            from .late import LATE   # imported when it is first called
            import helpers
            if int(rows["k"][0]) == 1 and not Path("twice").exists():
                Path("twice").touch()
                edited()
                os._exit(3)          # as a crash in a C extension would
            return {"version": f"{RATE}{rates.rate()}{LATE}{helpers.HELP}"}

        def edited():
            script = Path("edit.py")
            if script.exists():
                exec(script.read_text())
    """,
    "shop/rates.py": "RATE = 1\n\ndef rate():\n    return RATE\n",
    "shop/late.py": "LATE = 1\n",
    "helpers.py": "HELP = 1\n",
    "shop/queries/all.sql": "SELECT * FROM sales",
    "shop/queries/out.sql": "SELECT version, count(*) AS n FROM m GROUP BY version ORDER BY "
    "version",
    "shop/sales.csv": "k,v\n" + "".join(f"{k},1\n" for k in range(6)),
}


def project(folder: Path, **changes: str) -> Path:
    for name, text in PACKAGE.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(text))
    return folder


def cli(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "hundredfold", *arguments]
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=HANG_S, check=False
    )


def published(folder: Path) -> str:
    (path,) = folder.glob(".hundredfold/releases/shop/000001/out.csv")
    return path.read_text()


EDITS = {
    "edited": (
        "for n in ('shop/rates.py', 'shop/late.py', 'helpers.py'):\n   "
        " Path(n).write_text(Path(n).read_text().replace('= 1', '= 2'))"
    ),
    "removed": "import shutil\nshutil.rmtree('shop')\nPath('helpers.py').unlink()",
    "replaced": (
        "for n in ('shop/rates.py', 'helpers.py'):\n   "
        " Path('new').write_text(Path(n).read_text().replace('= 1', '= 2'))\n   "
        " Path('new').replace(n)"
    ),
}


@pytest.mark.parametrize("edit", EDITS)
def test_a_worker_that_starts_later_runs_the_code_of_the_others(tmp_path: Path, edit: Any) -> None:
    project(tmp_path)
    (tmp_path / "edit.py").write_text(EDITS[edit])
    done = cli(tmp_path, "run", "shop.job:job", "--workers", "1", "--max-failed", "1")
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
    assert published(tmp_path) == "version,n\n1111,5\n"


def test_a_module_that_is_added_during_a_run_is_refused(tmp_path: Path) -> None:
    project(tmp_path)
    (tmp_path / "shop/model.py").write_text(
        "def price(rows):\n    name = 'add' + 'ed'\n    return {'version':"
        " str(__import__(name).V)}\n"
    )
    (tmp_path / "added.py").write_text("V = 1\n")
    text = (tmp_path / "shop/job.py").read_text()
    late = (
        "\nimport hundredfold.pipeline.runner\nfrom pathlib import Path\nold ="
        " hundredfold.pipeline.runner.StageRunner.validate\n\n"
    )
    late += (
        "def validate(self, *words):\n    Path('added.py').write_text('V = 2\\n')\n    return"
        " old(self, *words)\n\n"
    )
    (tmp_path / "shop/job.py").write_text(
        text + late + "hundredfold.pipeline.runner.StageRunner.validate = validate\n"
    )
    done = cli(tmp_path, "run", "shop.job:job", "--workers", "1")
    assert done.returncode == 1
    assert "added.py has changed since the run began" in cli(tmp_path, "failures").stdout


def test_a_run_keeps_its_code_and_a_retry_with_other_code_reports_it(tmp_path: Path) -> None:
    project(tmp_path)
    model = tmp_path / "shop/model.py"
    sound = model.read_text()
    model.write_text(
        sound.replace(
            "from .late", "if int(rows['k'][0]) == 2: raise ValueError('not yet')\n    from .late"
        ).replace("os._exit(3)", "pass")
    )
    assert cli(tmp_path, "run", "shop.job:job", "--workers", "1", "--run-id", "r").returncode == 0
    run = open_run("r", home=tmp_path / ".hundredfold")
    (entry,) = run.record.options["code"]
    with zipfile.ZipFile(run.folder / "code" / f"{entry['fingerprint']}.zip") as kept:
        assert kept.read("modules/shop.model") == model.read_bytes()
        facts = json.loads(kept.read("facts.json"))
    assert sorted(facts["modules"]) == [
        "helpers",
        "shop",
        "shop.job",
        "shop.late",
        "shop.model",
        "shop.rates",
    ]
    assert (facts["hundredfold"], facts["python"]) == (
        hundredfold.__version__,
        sys.version.split()[0],
    )
    again = cli(tmp_path, "retry", "r")
    assert (again.returncode, "1 of 6 units" in again.stdout + again.stderr) == (
        0,
        False,
    )  # the same code: failed once more
    model.write_text(sound)
    (tmp_path / "shop/queries/out.sql").write_text(PACKAGE["shop/queries/out.sql"] + " DESC")
    refused = cli(tmp_path, "retry", "r")
    assert refused.returncode == 1
    assert (
        "error: the code is not that which did run r so far\n  shop.model: edited\n"
        in refused.stderr
    )
    assert "the query of out (queries/out.sql): edited" in refused.stderr
    assert "hundredfold retry r --accept-new-code" in refused.stderr
    accepted = cli(tmp_path, "retry", "r", "--accept-new-code")
    assert (
        accepted.returncode,
        "made by 2 versions of the code: 5 units of m by earlier ones" in accepted.stdout,
    ) == (0, True), accepted.stderr
    run = open_run("r", home=tmp_path / ".hundredfold")
    first, second = run.record.options["code"]
    assert run.release is not None
    assert run.release.code == {second["fingerprint"]: {"m": 1}, first["fingerprint"]: {"m": 5}}
    assert cli(tmp_path, "status", "r").returncode == 0


@pytest.mark.parametrize("accept", [False, True])
def test_resume_with_other_code_does_the_rest_in_a_round_of_its_own(
    tmp_path: Path, accept: bool
) -> None:
    class Stop(NullCallbacks):
        def progress(self, progress: Any) -> None:
            if progress.done:
                raise hundredfold.errors.Stopped("enough")

    def job(version: int) -> Job:
        def work(rows: Any) -> Any:
            import time

            time.sleep(0.02)  # of these units, a first part is sent after two seconds
            return {"version": version}

        return Job(
            "versions",
            [Source("s")],
            [Model("m", ("k",), work)],
            publish=Publish("out", "SELECT * FROM m", formats=("csv",)),
        )

    table = pa.table({"k": list(range(130))})
    with pytest.raises(hundredfold.errors.Stopped):
        hundredfold.run(
            job(1),
            {"s": table},
            home=tmp_path,
            run_id="r",
            workers=1,
            memory="1GB",
            callbacks=Stop(),
        )
    if not accept:
        with pytest.raises(
            StateError, match="the code is not that which did run r so far"
        ) as error:
            resume("r", home=tmp_path, job=job(2))
        assert error.value.problems == ("the function of m: edited",)
        done = resume("r", home=tmp_path, job=job(1))
        assert set(done.results().to_arrow().column("version").to_pylist()) == {1}
        assert done.release is not None
        assert len(done.release.code) == 1
        return
    done = resume("r", home=tmp_path, job=job(2), accept_new_code=True)
    versions = done.results().to_arrow().column("version").to_pylist()
    rounds = done.units().to_arrow().column("attempt").to_pylist()
    assert set(versions) == {1, 2}
    assert rounds == versions  # each unit's round says by which code it was done
    first, second = (entry["fingerprint"] for entry in done.record.options["code"])
    assert done.release is not None
    assert done.release.code == {second: {"m": versions.count(2)}, first: {"m": versions.count(1)}}


def test_a_retry_from_python_with_another_function_must_accept_it(tmp_path: Path) -> None:
    def job(bad: int) -> Job:
        def work(rows: Any) -> Any:
            if int(rows["k"][0]) == bad:
                raise ValueError("not yet")
            return {"y": 1}

        return Job("py", [Source("s")], [Model("m", ("k",), work)])

    hundredfold.run(
        job(1), {"s": pa.table({"k": [0, 1]})}, home=tmp_path, run_id="r", workers=1, memory="1GB"
    )
    with pytest.raises(StateError, match="the code is not that"):
        retry("r", home=tmp_path, job=job(9))
    assert open_run("r", home=tmp_path).record.options["attempt"] == 1
    assert len(retry("r", home=tmp_path).results()) == 1  # as it was kept
    assert len(retry("r", home=tmp_path, job=job(9), accept_new_code=True).results()) == 2


@pytest.fixture
def edited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A module of this process, by its text."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    names = []

    def write(text: str, name: str = "own_module_here") -> Any:
        (tmp_path / f"{name}.py").write_text(dedent(text))
        if name not in names:
            names.append(name)
            importlib.invalidate_caches()
        return sys.modules.get(name) or importlib.import_module(name)

    yield write
    for name in names:
        sys.modules.pop(name, None)


FUNCTION = "FACTOR = 1\n\ndef f(rows):\n    return {'ver': FACTOR}\n"


@pytest.mark.parametrize(
    "other",
    [
        FUNCTION.replace("1", "22"),
        FUNCTION.replace("FACTOR}", "2}"),
        FUNCTION + "\ndef g():\n    pass\n",
    ],
)
def test_a_module_that_was_edited_and_not_reloaded_is_refused(
    tmp_path: Path, edited: Any, other: Any
) -> None:
    module = edited(FUNCTION)
    job = Job("e", [Source("s")], [Model("m", ("k",), module.f)])
    table = {"s": {"k": ["A", "B"]}}
    assert hundredfold.run(job, table, home=tmp_path / "h", workers=1, memory="1GB").state == "done"
    edited(other)
    with pytest.raises(
        JobError, match="own_module_here: edited after this process imported it"
    ) as error:
        hundredfold.run(job, table, home=tmp_path / "h", workers=1, memory="1GB")
    assert "importlib.reload(own_module_here)" in (error.value.hint or "")
    assert module.f(None) == {"ver": 1}
    assert hundredfold.replay("m", "A", home=tmp_path / "h") == {"ver": 1}
    again = importlib.reload(module)
    job = Job("e", [Source("s")], [Model("m", ("k",), again.f)])
    done = hundredfold.run(job, table, home=tmp_path / "h", workers=1, memory="1GB")
    assert done.results().to_arrow().column("ver").to_pylist() == [again.f(None)["ver"]] * 2


def by(factor: int) -> Any:
    return lambda rows: {"y": factor + 0 * len(rows)}


def scaled(rows: Any, factor: int = 2) -> Any:
    return {"y": factor}


class Times:
    def __init__(self, factor: int) -> None:
        self.factor = factor

    def __call__(self, rows: Any) -> Any:
        return {"y": self.factor + 0 * len(rows)}


def prints(work: Any, **how: Any) -> Any:
    return read_job_code(Job("p", [Source("s", **how)], [Model("m", ("k",), work)]))


def test_the_fingerprint_follows_what_a_function_is_made_of() -> None:
    from functools import partial

    same = [prints(by(1)), prints(by(1))]
    assert same[0].fingerprint == same[1].fingerprint
    others = [
        prints(by(2)),
        prints(Times(1)),
        prints(Times(2)),
        prints(partial(scaled, factor=1)),
        prints(by(1), unique=("k",)),
    ]
    assert len({code.fingerprint for code in (*same, *others)}) == 6
    assert differences(same[0].facts, others[0].facts) == ["the function of m: edited"]
    assert __name__ in same[0].facts["modules"]
    assert {"pytest", "pyarrow"} <= set(same[0].facts["libraries"])
    table = prints(lambda rows: {"y": pa.table({"x": rows}).num_rows})
    assert not [
        name
        for name in table.facts["modules"]
        if name.startswith(("pyarrow", "numpy", "hundredfold"))
    ]


def test_the_fingerprint_follows_masked_values_too() -> None:
    from functools import partial

    values: list[Any] = [
        np.array([1, 2]),
        np.ma.array([1, 2], mask=[False, True]),
        np.ma.array([1, 2], mask=[True, False]),
        np.ma.masked,
        np.float64(0),
    ]
    found = [prints(partial(scaled, factor=value)).fingerprint for value in values]
    assert len(set(found)) == len(values)
    assert found == [prints(partial(scaled, factor=value)).fingerprint for value in values]


@pytest.mark.parametrize("kind", ["relative", "zip", "pyc", "namespace"])
def test_modules_of_every_kind_are_kept(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "code"
    (folder / "pack").mkdir(parents=True)
    (folder / "pack/inner.py").write_text(
        "from .value import V\n\ndef f(rows):\n    import os, shutil\n"
        "    if rows['k'][0] == 1:\n        open('gone', 'a').close()\n        os._exit(3)\n"
        "    return {'v': V}\n"
    )
    (folder / "pack/value.py").write_text("V = 1\n")
    if kind != "namespace":
        (folder / "pack/__init__.py").write_text("")
    location = folder
    if kind == "zip":
        location = Path(shutil.make_archive(str(tmp_path / "pack"), "zip", folder))
        shutil.rmtree(folder)
    if kind == "pyc":
        import compileall

        compileall.compile_dir(folder, quiet=1, legacy=True)
        for path in folder.rglob("*.py"):
            path.unlink()
    (tmp_path / "main.py").write_text(
        dedent(f"""
        import sys, os, shutil
        sys.path.insert(0, {str(location)!r})
        import hundredfold
        from hundredfold import Job, Model, Source
        from hundredfold.pipeline.runner import NullCallbacks
        from pack.inner import f

        PLACE = {str(location)!r}

        class Remove(NullCallbacks):
            def progress(self, progress):
                if os.path.exists("gone") and os.path.exists(PLACE):
                    shutil.rmtree(PLACE) if os.path.isdir(PLACE) else os.unlink(PLACE)

            def stage_started(self, stage):
                if str(stage) == "work m":
                    self.progress(None)

        job = Job("kinds", [Source("s")], [Model("m", ("k",), f)], max_failed=1.0)
        open("gone", "a").close()
        done = hundredfold.run(
            job, {{"s": {{"k": list(range(4))}}}},
            home="home", workers=1, memory="1GB", callbacks=Remove(),
        )
        print(done.results().to_arrow().to_pylist(), os.path.exists(PLACE))
        """)
    )
    done = subprocess.run(
        [sys.executable, "main.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=HANG_S,
        check=False,
    )
    assert (done.stderr, done.stdout) == ("", f"{[{'k': k, 'v': 1} for k in (0, 2, 3)]} False\n")


def test_a_publication_with_another_query_must_be_accepted(tmp_path: Path) -> None:
    project(tmp_path)
    (tmp_path / "twice").touch()
    (tmp_path / "shop/queries/out.sql").write_text("SELECT no_such_column FROM m")
    assert cli(tmp_path, "run", "shop.job:job", "--workers", "1", "--run-id", "r").returncode == 1
    (tmp_path / "shop/queries/out.sql").write_text(PACKAGE["shop/queries/out.sql"])
    assert "(queries/out.sql): edited" in cli(tmp_path, "resume", "r").stderr
    done = cli(tmp_path, "resume", "r", "--accept-new-code")
    assert (done.returncode, published(tmp_path)) == (0, "version,n\n1111,6\n"), done.stderr
    assert "made by 2 versions of the code: 6 units of m by earlier ones" in done.stdout
