"""The code of a function: found, fetched, pruned, measured and packed."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest

from hundredfold.aws.adapters.session import StackResources
from hundredfold.aws.archive import (
    fingerprint_of,
    seal,
    sha256_of,
    unpacked_bytes,
    write_contents,
    write_seal,
    write_zip,
    write_zips,
)
from hundredfold.aws.deploy.dependencies import find_imports
from hundredfold.aws.deploy.distributions import (
    copy_without,
    files_with_distribution,
    pack_distributions,
    required,
    unneeded_by_workers,
)
from hundredfold.aws.deploy.elf import linked_libraries, strip_unloaded
from hundredfold.aws.deploy.package import (
    SEAL_FOLDER,
    BuiltPackage,
    DistributionSize,
    PackageError,
    _requirement_names,
    build,
    check_size,
    copy_code,
    package,
    pip_command,
    write_dockerfiles,
)
from hundredfold.aws.deploy.prune import imported, prune
from hundredfold.aws.deploy.uv import uv_command, uv_environment, uv_program
from hundredfold.aws.lambda_platform import (
    FINGERPRINT_FILE,
    MAX_UNZIPPED_BYTES,
    PACKED_FOLDER,
    PYTHON,
    platforms,
)
from hundredfold.errors import JobError, UsageError

HERE = f"{sys.version_info.major}.{sys.version_info.minor}"
MACHINE = {"aarch64": "arm64", "arm64": "arm64"}.get(platform.machine(), "x86_64")

JOB = """
from hundredfold import Job, Model, Source
import rates

def fit(rows):
    import psutil
    return {"n": rates.RATE}

job = Job(name="small", sources=[Source("sales", path="sales.csv")],
          models=[Model("fits", unit=("shop",), query="queries/fits.sql", work=fit)])
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A job in a file, with a module next to it, its query, a table of rows, and leftovers of
    tools.
    """
    folder = tmp_path / "project"
    (folder / "queries").mkdir(parents=True)
    (folder / "job.py").write_text(JOB)
    (folder / "rates.py").write_text("import cloudpickle\nRATE = 3\n")
    (folder / "queries" / "fits.sql").write_text("SELECT * FROM sales")
    (folder / "sales.csv").write_text("shop,n\nA,1\n")
    monkeypatch.chdir(folder)
    return folder


def files_of(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


# ---- the parts of a job


def test_a_job_in_a_file_includes_the_modules_next_to_it(project: Path) -> None:
    found = find_imports("job.py")
    assert found.ref == "job:job"
    assert found.code == {"job": str(project / "job.py"), "rates": str(project / "rates.py")}
    assert found.queries == ("queries/fits.sql",)


def test_imports_of_the_code_and_its_functions_have_installed_versions(
    project: Path,
) -> None:
    assert find_imports("job.py").installed == {
        "cloudpickle": version("cloudpickle"),
        "psutil": version("psutil"),
    }


def test_imports_for_type_checkers_and_scripts_are_left_out(project: Path) -> None:
    (project / "rates.py").write_text(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import pandas\nif __name__ == "
        "'__main__':\n    import scipy\nRATE = 3\n"
    )
    assert find_imports("job.py").installed == {"psutil": version("psutil")}


def test_a_job_of_a_package_is_the_whole_package(tmp_path: Path) -> None:
    found = find_imports("tariffs.job:per_unit")
    assert found.ref == "tariffs.job:per_unit"
    assert list(found.code) == ["tariffs"]
    assert "queries/price_table.sql" in found.queries


def test_a_job_that_cannot_be_imported_is_an_error(project: Path) -> None:
    (project / "rates.py").write_text("RATE = 1 / 0\n")
    with pytest.raises(JobError, match="cannot be imported: ZeroDivisionError"):
        find_imports("job.py")


def test_a_job_that_exits_the_process_is_an_error(project: Path) -> None:
    (project / "rates.py").write_text("import os\nos._exit(3)\n")
    with pytest.raises(JobError, match="in a process of its own"):
        find_imports("job.py")


# ---- the imports of a file


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("import a.b, c as d", {"a.b", "c"}),
        ("from a import b", {"a", "a.b"}),
        ("from . import b", {"top.inner", "top.inner.b"}),
        ("from .b import c", {"top.inner.b", "top.inner.b.c"}),
        ("from ..b import c", {"top.b", "top.b.c"}),
        (
            "def f():\n    from a.b import (\n        c,\n        d,\n    )",
            {"a.b", "a.b.c", "a.b.d"},
        ),
        ("# import a\nx = 'import b'", set()),
    ],
)
def test_every_form_of_import_is_recognised(text: str, names: set[str]) -> None:
    assert set(imported(text.encode(), Path("top/inner/file.py"))) == names


# ---- unneeded files of a package


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder as pip writes it."""
    site = tmp_path / "site"
    for name, text in {
        "lib/__init__.py": "",
        "lib/tests/__init__.py": "",
        "lib/tests/test_a.py": "import lib.tests.helper",
        "lib/tests/helper.py": "",
        "lib/conftest.py": "",
        "lib/core.pyi": "x: int",
        "lib/fast.h": "",
        "lib/__pycache__/a.cpython-314.pyc": "",
        "lib-1.0.dist-info/METADATA": "Name: lib",
        "lib-1.0.dist-info/RECORD": "",
        "lib-1.0.dist-info/licenses/LICENSE": "free",
        "bin/tool": "",
        "mine/tests/__init__.py": "",
        "mine/data.h": "",
    }.items():
        (site / name).parent.mkdir(parents=True, exist_ok=True)
        (site / name).write_text(text)
    return site


def test_tests_and_headers_are_pruned_but_not_the_users_own_code(site: Path) -> None:
    prune(site, own=["mine"])
    assert files_of(site) == {
        "lib/__init__.py",
        "lib-1.0.dist-info/METADATA",
        "lib-1.0.dist-info/licenses/LICENSE",
        "mine/tests/__init__.py",
        "mine/data.h",
    }


def test_an_imported_test_stays_with_its_own_imports(site: Path) -> None:
    (site / "lib" / "testing.py").write_text("from lib.tests import test_a")
    prune(site, own=["mine"])
    assert {name for name in files_of(site) if "tests" in name and "mine" not in name} == {
        "lib/tests/__init__.py",
        "lib/tests/test_a.py",
        "lib/tests/helper.py",
    }


def test_modules_that_the_job_loads_stay(site: Path) -> None:
    prune(site, own=["mine"], spare=["lib.tests.helper"])
    assert "lib/tests/helper.py" in files_of(site)


def test_a_package_that_reads_its_own_stubs_keeps_them(site: Path) -> None:
    (site / "lib" / "__init__.py").write_text(
        "import lazy_loader\nlazy_loader.attach_stub(__name__, __file__)\n"
    )
    prune(site, own=["mine"])
    assert "lib/core.pyi" in files_of(site)


def test_an_optional_part_of_a_library_is_removed_unless_imported(tmp_path: Path) -> None:
    for asks, left in (
        ("import pyarrow", set()),
        ("import pyarrow.flight", {"pyarrow/flight.py", "pyarrow/_flight.so"}),
    ):
        site = tmp_path / str(len(left))
        (site / "pyarrow").mkdir(parents=True)
        for name in ("pyarrow/__init__.py", "pyarrow/flight.py", "pyarrow/_flight.so"):
            (site / name).write_text("")
        (site / "mine.py").write_text(asks)
        kept = prune(site, own=["mine"])
        assert files_of(site) == {"mine.py", "pyarrow/__init__.py"} | left
        assert kept == (("pyarrow.flight",) if left else ())


@pytest.mark.skipif(sys.platform != "linux", reason="its libraries are not ELF files")
def test_linked_libraries_are_read_from_the_file(tmp_path: Path) -> None:
    import pyarrow

    (library,) = Path(pyarrow.__file__).parent.glob("lib.cpython*.so")
    needed = linked_libraries(library)
    assert any(name.startswith("libarrow.so") for name in needed)
    assert "libc.so.6" in needed
    (tmp_path / "text.so").write_text("no library")
    assert linked_libraries(tmp_path / "text.so") == ()


@pytest.mark.skipif(sys.platform != "linux", reason="its libraries are not ELF files")
def test_a_library_works_without_its_unloaded_parts(tmp_path: Path) -> None:
    import psutil

    whole = Path(psutil.__file__).parent
    shutil.copytree(whole, tmp_path / "psutil", ignore=shutil.ignore_patterns("__pycache__"))
    for path in (tmp_path / "psutil").glob("*.so"):
        smaller = strip_unloaded(path.read_bytes())
        assert len(smaller) < path.stat().st_size
        path.write_bytes(smaller)
        assert linked_libraries(path) == linked_libraries(whole / path.name)
        assert strip_unloaded(smaller) == smaller
    code = "import psutil; print(psutil.__file__, psutil.Process().memory_info().rss > 0)"
    done = subprocess.run(
        [sys.executable, "-S", "-c", code],
        env={"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == [str(tmp_path / "psutil" / "__init__.py"), "True"]
    assert strip_unloaded(b"no library") == b"no library"


# ---- the user's own code


@pytest.fixture
def whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A job in a package: its folder."""
    folder = tmp_path / "mine"
    (folder / "queries").mkdir(parents=True)
    (folder / "__init__.py").write_text(JOB.replace("import rates", "class rates: RATE = 1"))
    (folder / "queries" / "fits.sql").write_text("SELECT * FROM sales")
    monkeypatch.chdir(tmp_path)
    return folder


def copied(ref: str, folder: Path) -> tuple[set[str], tuple[str, ...]]:
    folder.mkdir()
    left_out = copy_code(find_imports(ref), folder)
    return files_of(folder), left_out


def test_a_job_in_a_file_includes_its_query_but_not_its_rows(project: Path) -> None:
    assert copied("job.py", project / "out") == ({"job.py", "rates.py", "queries/fits.sql"}, ())


def test_a_package_is_copied_without_tests_and_tables_of_rows(whole: Path, tmp_path: Path) -> None:
    for name, text in {
        "sales.csv": "shop,n\n" + "A,1\n" * 600_000,
        "lookup.csv": "A,1\n",
        "test_job.py": "",
        "tests/data.json": "",
        ".env": "SECRET=1",
        "__pycache__/x.pyc": "",
    }.items():
        (whole / name).parent.mkdir(exist_ok=True)
        (whole / name).write_text(text)
    files, left_out = copied("mine:job", tmp_path / "out")
    assert files == {"mine/__init__.py", "mine/queries/fits.sql", "mine/lookup.csv"}
    assert left_out == (
        "mine/.env (may hold a secret)",
        "mine/sales.csv",
        "mine/test_job.py",
        "mine/tests/data.json",
    )


def test_a_query_above_the_job_is_copied_if_its_folder_exists(whole: Path, tmp_path: Path) -> None:
    (whole / "inner").mkdir()
    (whole / "inner" / "job.py").write_text(
        (whole / "__init__.py").read_text().replace("queries/fits.sql", "../../shared/fits.sql")
    )
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "fits.sql").write_text("SELECT 1")
    files, _ = copied("mine.inner.job:job", tmp_path / "out")
    assert "shared/fits.sql" in files


def test_a_query_outside_of_the_imported_folders_is_rejected(project: Path, tmp_path: Path) -> None:
    (project / "job.py").write_text(JOB.replace("queries/fits.sql", "../fits.sql"))
    (tmp_path / "fits.sql").write_text("SELECT 1")
    with pytest.raises(PackageError, match=r"the query ../fits.sql is outside"):
        copied("job.py", project / "out")


def test_code_compiled_for_this_machine_is_rejected(whole: Path, tmp_path: Path) -> None:
    (whole / "fast.so").write_bytes(b"\x7fELF")
    with pytest.raises(PackageError, match=r"fast.so is compiled for this machine"):
        copied("mine:job", tmp_path / "out")


# ---- the zip


def test_the_same_files_give_the_same_zip_with_any_date_and_owner(
    tmp_path: Path,
) -> None:
    hashes = []
    for number, mode in enumerate((0o600, 0o755)):
        folder = tmp_path / str(number)
        for name in ("b/x.py", "a.py") if number else ("a.py", "b/x.py"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(name)
            (folder / name).chmod(mode)
            os.utime(folder / name, (time.time() - 10**6 * number,) * 2)
        write_zip(folder, tmp_path / f"{number}.zip")
        hashes.append(sha256_of(tmp_path / f"{number}.zip"))
    assert hashes[0] == hashes[1]


def test_zips_that_share_files_have_those_of_their_folders(tmp_path: Path) -> None:
    steps, workers = tmp_path / "steps", tmp_path / "workers"
    for folder, names in ((steps, "abcd"), (workers, "bce")):
        folder.mkdir()
        for name in names:
            (folder / name).write_text(name)
    (workers / "c").write_text("x")  # as long as the other one
    os.link(steps / "d", workers / "d")
    zips = {steps: tmp_path / "steps.zip", workers: tmp_path / "workers.zip"}
    hashes = []
    for _ in range(2):
        write_zips(zips)
        hashes.append([sha256_of(archive) for archive in zips.values()])
    assert hashes[0] == hashes[1]
    assert texts_of(zips[steps]) == [("b", "b"), ("d", "d"), ("a", "a"), ("c", "c")]
    assert texts_of(zips[workers]) == [("b", "b"), ("d", "d"), ("c", "x"), ("e", "e")]
    assert {path.name for path in tmp_path.iterdir() if path.is_file()} == {
        archive.name for archive in zips.values()
    }


def texts_of(archive: Path) -> list[tuple[str, str]]:
    with zipfile.ZipFile(archive) as file:
        return [(name, file.read(name).decode()) for name in file.namelist()]


def test_all_files_of_a_package_are_listed_with_their_sizes(tmp_path: Path) -> None:
    (tmp_path / "package" / "b").mkdir(parents=True)
    (tmp_path / "package" / "b" / "c.py").write_bytes(b"x" * 1234)
    (tmp_path / "package" / "a.sql").write_text("")
    write_contents(tmp_path / "package", tmp_path / "contents.txt")
    assert (tmp_path / "contents.txt").read_text() == (
        "           0  a.sql\n       1,234  b/c.py\n"
    )


def test_files_of_a_zip_are_readable_by_everyone(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.py").write_text("")
    (tmp_path / "in" / "a.py").chmod(0o600)
    write_zip(tmp_path / "in", tmp_path / "out.zip")
    with zipfile.ZipFile(tmp_path / "out.zip") as archive:
        assert [entry.external_attr >> 16 for entry in archive.infolist()] == [0o100644]


# ---- the package of the workers, and distributions that are packed


def install(folder: Path, name: str, *requires: str, size: int = 10) -> None:
    """Write a distribution of one package, and its records, as pip does."""
    info = folder / f"{name}-1.0.dist-info"
    for made in (info, folder / name):
        made.mkdir(parents=True)
    (folder / name / "__init__.py").write_text(f"SIZE = {size}\n")
    (folder / name / "data.bin").write_bytes(b"x" * size)
    lines = "".join(f"Requires-Dist: {each}\n" for each in requires)
    (info / "METADATA").write_text(f"Metadata-Version: 2.4\nName: {name}\n{lines}")
    names = (
        f"{name}/__init__.py",
        f"{name}/data.bin",
        f"{info.name}/METADATA",
        f"{info.name}/RECORD",
    )
    (info / "RECORD").write_text("".join(f"{each},,\n" for each in names))


@pytest.mark.parametrize(
    ("requires", "named", "modules", "unneeded"),
    [
        ((), (), (), {"duckdb", "sqlglot"}),
        (("duckdb>=1",), (), (), {"sqlglot"}),  # a library of the user requires it
        (("duckdb; extra == 'all'",), (), (), {"duckdb", "sqlglot"}),
        ((), ("DuckDB",), (), {"sqlglot"}),  # the user's code imports it
        ((), (), ("sqlglot",), {"duckdb"}),  # a library imports it if it is there
    ],
)
def test_workers_have_all_but_what_only_the_steps_import(
    tmp_path: Path,
    requires: tuple[str, ...],
    named: tuple[str, ...],
    modules: tuple[str, ...],
    unneeded: set[str],
) -> None:
    site = tmp_path / "site"
    for name in ("duckdb", "sqlglot"):
        install(site, name)
    install(site, "lib", *requires)
    found = unneeded_by_workers(site, named, modules)
    assert found == unneeded
    copy_without(site, tmp_path / "worker", found, dict(files_with_distribution(site)))
    without = {name for name in files_of(site) if name.split("/")[0].split("-")[0] in unneeded}
    assert files_of(tmp_path / "worker") == files_of(site) - without


def test_the_largest_distributions_are_packed_until_the_package_fits(tmp_path: Path) -> None:
    site = tmp_path / "site"
    for name, size in (("large", 9), ("core", 8), ("shared", 7), ("small", 2), ("tiny", 0)):
        install(site, name, *(["core"] if name == "tiny" else []), size=size * 2**20)
    (site / "shared" / "mine.py").write_text("")
    owners = dict(files_with_distribution(site))
    keep = required(site, ["tiny"])
    assert keep == {"tiny", "core"}
    for limit, packed in ((30, []), (20, ["large"]), (1, ["large", "small"])):
        pack_distributions(site, owners, limit=limit * 2**20, keep=keep, own=["shared"])
        zips = sorted(path.stem for path in site.glob(f"{PACKED_FOLDER}/*.zip"))
        assert zips == packed, limit
    assert unpacked_bytes(site) // 2**20 == 11
    write_zip(site, tmp_path / "all.zip")
    assert unpacked_bytes(tmp_path / "all.zip") == unpacked_bytes(site)
    code = (
        "import sys, tempfile; tempfile.tempdir = sys.argv[1]\n"
        "from hundredfold.aws.functions.packed import unpack_distributions\n"
        "unpack_distributions(); unpack_distributions()\n"
        "import large, small; print(large.SIZE, len([p for p in sys.path if 'packed' in p]))"
    )
    (tmp_path / "tmp").mkdir()
    for _ in range(2):  # a function that starts again finds them
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "tmp")],
            env={**os.environ, "LAMBDA_TASK_ROOT": str(site)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.stdout.split() == [str(9 * 2**20), "1"], done.stderr
    assert len(list((tmp_path / "tmp").iterdir())) == 1


# ---- packages that cannot be built


def test_a_package_that_is_too_large_is_rejected_with_its_sizes(tmp_path: Path) -> None:
    built = BuiltPackage(
        "a:b",
        tmp_path,
        (
            DistributionSize("scipy", "1.17", MAX_UNZIPPED_BYTES),
            DistributionSize("numpy", "2.4", 2**20),
        ),
        0,
        (),
        (),
    )
    with pytest.raises(
        PackageError, match=r"takes 251.0 MB unzipped; Lambda.s limit is 250 MB"
    ) as caught:
        check_size(built, "job.py")
    assert caught.value.problems[0].split() == ["scipy", "250.0", "MB"]
    assert "hundredfold package job.py --image" in str(caught.value.hint)
    check_size(
        BuiltPackage(
            "a:b", tmp_path, (DistributionSize("scipy", "1.17", MAX_UNZIPPED_BYTES),), 0, (), ()
        ),
        "job.py",
    )


@pytest.mark.parametrize(("architecture", "python"), [("arm", "3.14"), ("arm64", "3.9")])
def test_unsupported_runtimes_are_rejected(project: Path, architecture: str, python: str) -> None:
    with pytest.raises(UsageError, match="does not support Python"):
        package("job.py", project / "out", architecture=architecture, python=python)


def test_wheels_for_older_systems_run_too() -> None:
    tags = platforms("arm64")
    assert tags[0] == "manylinux_2_34_aarch64"
    assert {"manylinux_2_28_aarch64", "manylinux_2_17_aarch64", "manylinux2014_aarch64"} <= set(
        tags
    )


# ---- the whole package, from real wheels


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> BuiltPackage:
    """The tariffs job with wheels for this machine; skipped if no index is reachable."""
    folder = tmp_path_factory.mktemp("built") / "package"
    return built_or_skipped("tariffs.job:job", folder)


def built_or_skipped(ref: str, folder: Path) -> BuiltPackage:
    try:
        return build(ref, folder, architecture=MACHINE, python=HERE)
    except PackageError as error:
        if any("Retry" in problem or "connection" in problem.lower() for problem in error.problems):
            pytest.skip(f"no index of packages can be reached: {error}")
        raise


@pytest.mark.slow
def test_the_package_works_without_other_installed_packages(
    built: BuiltPackage, tmp_path: Path
) -> None:
    """Only the package, and boto3, which Lambda's own Python has."""
    runtime = tmp_path / "runtime"
    runtime.mkdir()
    import boto3

    for name in ("boto3", "botocore", "s3transfer", "jmespath", "urllib3", "dateutil", "six.py"):
        (runtime / name).symlink_to(Path(boto3.__file__).parents[1] / name)
    code = """if True:
        import json, sys, tempfile, duckdb, numpy
        import pyarrow as pa, pyarrow.compute as pc, pyarrow.dataset, pyarrow.parquet as pq
        import hundredfold.aws.functions.step_handler, tariffs.job
        table = pa.table({"n": numpy.linalg.solve(numpy.eye(3) * 2, numpy.arange(3.0))})
        with tempfile.NamedTemporaryFile(suffix=".parquet") as file:
            pq.write_table(table, file.name, compression="zstd")
            total = pc.sum(pq.read_table(file.name)["n"]).as_py()
            assert duckdb.sql(f"SELECT sum(n) FROM '{file.name}'").fetchall() == [(total,)]
        files = (getattr(module, "__file__", None) for module in sys.modules.values())
        print(json.dumps(sorted(filter(None, files))))"""
    done = subprocess.run(
        [sys.executable, "-S", "-c", code],
        env={
            "PYTHONPATH": os.pathsep.join([str(built.folder), str(runtime)]),
            "PYTHONDONTWRITEBYTECODE": "1",
        },
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    loaded = [Path(file) for file in json.loads(done.stdout)]
    assert [
        path
        for path in loaded
        if "site-packages" in path.parts
        and not path.resolve().is_relative_to(Path(boto3.__file__).parents[1])
    ] == []
    assert any(path.is_relative_to(built.folder / "pyarrow") for path in loaded)


@pytest.mark.slow
def test_the_package_fits_and_lists_its_sizes(built: BuiltPackage) -> None:
    assert [size.name for size in built.sizes[:3]] == ["pyarrow", "duckdb", "numpy"]
    assert {"hundredfold", "your code"} <= {size.name for size in built.sizes}
    assert built.size == sum(
        path.stat().st_size for path in built.folder.rglob("*") if path.is_file()
    )
    assert built.size < MAX_UNZIPPED_BYTES
    assert built.pruned > 50 * 2**20


@pytest.mark.slow
def test_the_package_has_the_installed_versions_and_no_boto3(
    built: BuiltPackage,
) -> None:
    inside = {size.name: size.version for size in built.sizes}
    assert {name: inside[name] for name in ("numpy", "pyarrow", "duckdb")} == {
        name: version(name) for name in ("numpy", "pyarrow", "duckdb")
    }
    assert not (built.folder / "boto3").exists()
    assert not (built.folder / "click").exists()
    assert any(built.folder.rglob("*.pyc")) == bool(built.compiled_by)
    assert (built.folder / "tariffs" / "queries" / "price_table.sql").exists()


@pytest.mark.slow
def test_a_requirement_without_a_wheel_is_an_error_with_a_hint(project: Path) -> None:
    with pytest.raises(PackageError) as caught:
        package("job.py", project / "out", requirements=["psycopg2==2.9.9"])
    if "index" in str(caught.value):
        pytest.skip(str(caught.value))
    assert "psycopg2==2.9.9 has no wheel for Python 3.14 on arm64" in str(caught.value)
    assert "--image" in str(caught.value.hint)


def test_uv_and_pip_install_the_same_content(tmp_path: Path) -> None:
    """Wheels of Python and of machine code, for the processor and Python of a function."""
    uv = uv_program()
    if uv is None:
        pytest.skip("there is no uv")
    for name, command in (
        ("uv", uv_command(uv, PYTHON, "arm64")),
        ("pip", pip_command(PYTHON, "arm64")),
    ):
        wanted = ["cloudpickle==3.1.2", "psutil==7.2.2"]
        done = subprocess.run(
            [*command, "--target", str(tmp_path / name), *wanted],
            env=uv_environment(os.environ),
            capture_output=True,
            text=True,
            check=False,
        )
        if re.search("connection|failed to fetch", done.stderr, re.IGNORECASE):
            pytest.skip(f"no index of packages can be reached: {done.stderr}")
        assert done.returncode == 0, done.stderr
        prune(tmp_path / name)
    found = contents(tmp_path / "uv")
    assert any(file.endswith(".so") for file in found)
    assert found == contents(tmp_path / "pip")


def test_uv_gets_the_settings_of_pip_unless_it_has_its_own() -> None:
    pip = {"PIP_CERT": "/ca.pem", "PIP_FIND_LINKS": "/a /b", "PIP_INDEX_URL": "https://index.test"}
    found = uv_environment({**pip, "UV_DEFAULT_INDEX": "https://own.test", "PATH": "/bin"})
    assert found == {
        **pip,
        "SSL_CERT_FILE": "/ca.pem",
        "UV_FIND_LINKS": "/a,/b",
        "UV_DEFAULT_INDEX": "https://own.test",
        "PATH": "/bin",
    }


def test_names_of_packages_are_found_in_requirements_of_every_form(tmp_path: Path) -> None:
    (tmp_path / "more.txt").write_text("Zope.Interface\n")
    (tmp_path / "all.txt").write_text(
        "# first\n-r more.txt\n--index-url https://example.com\nnumpy==2.0 \\\n"
        "    --hash=sha256:00\nscikit_learn[x]>=1; python_version > '3' # why\n"
        "a-b @ https://example.com/a.whl\n\n./wheels/Some_Name-1.0-py3-none-any.whl\n"
    )
    assert list(_requirement_names([str(tmp_path / "all.txt"), "P.andas~=2.0"])) == [
        "zope-interface",
        "numpy",
        "scikit-learn",
        "a-b",
        "some-name",
        "p-andas",
    ]


@pytest.mark.slow
def test_the_same_job_gives_the_same_package(built: BuiltPackage, tmp_path: Path) -> None:
    again = build("tariffs.job:job", tmp_path / "package", architecture=MACHINE, python=HERE)
    assert contents(built.folder) == contents(again.folder)


def contents(folder: Path) -> dict[str, str]:
    return {name: sha256_of(folder / name) for name in files_of(folder)}


def test_an_image_uses_the_package_and_its_python(tmp_path: Path) -> None:
    write_dockerfiles(tmp_path, "3.13")
    text = (tmp_path / "Dockerfile").read_text()
    assert "ARG PYTHON=3.13\n" in text
    assert "COPY package/ ${LAMBDA_TASK_ROOT}/\n" in text
    worker = (tmp_path / "Dockerfile.worker").read_text()
    assert re.findall("^ARG PYTHON=.*$", worker, re.MULTILINE) == ["ARG PYTHON=3.13"]
    assert f"COPY ${{TARGETARCH}}/{SEAL_FOLDER}/ /opt/hundredfold/\n" in worker


def test_the_image_of_a_worker_has_the_fingerprint_of_the_zip(tmp_path: Path) -> None:
    for name in ("zip", "image"):
        (tmp_path / name / "x").mkdir(parents=True)
        (tmp_path / name / "x" / "y.py").write_text("1")
    seal(tmp_path / "zip")
    write_seal(tmp_path / "image", tmp_path / SEAL_FOLDER)
    fingerprint = (tmp_path / SEAL_FOLDER / FINGERPRINT_FILE).read_text()
    assert fingerprint == fingerprint_of(tmp_path / "zip")
    assert not (tmp_path / "image" / FINGERPRINT_FILE).exists()  # functions have their digest


def test_the_dockerfile_passes_the_linter() -> None:
    from importlib.resources import files
    from shutil import which

    hadolint = which(
        "hadolint", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    )
    if hadolint is None:
        pytest.skip("hadolint is not installed")
    done = subprocess.run(
        [hadolint, str(files("hundredfold") / "aws" / "Dockerfile")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.returncode) == ("", 0)


def test_a_fingerprint_depends_on_names_and_contents_of_a_package(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder / "inner").mkdir(parents=True)
        (tmp_path / folder / "inner" / "x.py").write_text("1")
        (tmp_path / folder / "y.py").write_text("2")
    one = fingerprint_of(tmp_path / "a")
    assert len(one) == 16
    assert fingerprint_of(str(tmp_path / "b")) == one
    for name in ("a", "b"):
        write_zip(tmp_path / name, tmp_path / f"{name}.zip")
    assert fingerprint_of(tmp_path / "a.zip") == fingerprint_of(tmp_path / "b.zip")
    (tmp_path / "b" / "y.py").rename(tmp_path / "b" / "z.py")
    (tmp_path / "a" / "y.py").write_text("3")
    assert len({one, fingerprint_of(tmp_path / "a"), fingerprint_of(tmp_path / "b")}) == 3
    assert fingerprint_of("1.dkr.ecr.eu-west-1.amazonaws.com/x@sha256:" + "ab" * 32) == "ab" * 8
    assert fingerprint_of("1.dkr.ecr.eu-west-1.amazonaws.com/x:latest") == ""


def test_a_sealed_package_has_one_fingerprint_everywhere(tmp_path: Path) -> None:
    """As a folder, as a zip, and in the function that runs it."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.py").write_text("1")
    seal(tmp_path / "a")
    sealed = fingerprint_of(tmp_path / "a")
    write_zip(tmp_path / "a", tmp_path / "a.zip")
    assert len(sealed) == 16
    assert fingerprint_of(tmp_path / "a.zip") == sealed
    names = ("JOB", "BUCKET", "TABLE", "QUEUE", "DEAD", "DATABASE", "WORKGROUP", "TRIGGER")
    environment = {f"HUNDREDFOLD_{name}": "x" for name in names} | {
        "HUNDREDFOLD_CONCURRENCY": "2",
        "HUNDREDFOLD_CODE": "of the package before",
    }
    assert StackResources.from_environment(environment).code == "of the package before"
    # Lambda has changed the code, and not yet the environment
    environment["LAMBDA_TASK_ROOT"] = str(tmp_path / "a")
    assert StackResources.from_environment(environment).code == sealed
    seal(tmp_path / "a")
    assert fingerprint_of(tmp_path / "a") == sealed
    (tmp_path / "a" / "x.py").write_text("2")
    seal(tmp_path / "a")
    assert fingerprint_of(tmp_path / "a") != sealed


SECRETS = (
    "credentials.json",
    "Credentials",
    "aws_credentials.csv",
    "gcp-credential.json",
    "secrets.yaml",
    "db_secrets.ini",
    "client_secret_1.json",
    "Passwords.txt",
    "id_rsa",
    "keys/id_ed25519.pub",
    "tls.pem",
    "tls.KEY",
    "store.p12",
    "store.pfx",
    "trust.jks",
    "release.keystore",
    "vault.kdbx",
    "putty.ppk",
    "dump.sql.gpg",
    "prod.env",
    "prod.tfvars",
    "terraform.tfstate.backup",
    "_netrc",
    "kubeconfig",
    "kubeconfig.yaml",
    "my-service-account.json",
    "secrets/plain.txt",
    ".env",
    ".env.production",
    ".netrc",
    ".npmrc",
    ".pypirc",
    ".pgpass",
    ".git-credentials",
    ".aws/credentials",
    ".aws/config",
    ".kube/config",
    ".docker/config.json",
    ".ssh/id_rsa",
)


def test_files_that_may_hold_secrets_are_left_out_and_listed(whole: Path, tmp_path: Path) -> None:
    kept = ("credentials.py", "keys.csv", "identity.txt", "secretary.json", "environment.txt")
    unlisted = (".gitignore", ".idea/workspace.xml")
    for name in (*SECRETS, *kept, *unlisted):
        (whole / name).parent.mkdir(exist_ok=True)
        (whole / name).write_text("x = 1")
    files, left_out = copied("mine:job", tmp_path / "out")
    assert set(left_out) == {f"mine/{name} (may hold a secret)" for name in SECRETS}
    assert {f"mine/{name}" for name in kept} <= files
    assert not any(f"mine/{name}" in files for name in (*SECRETS, *unlisted))


@pytest.mark.parametrize("target", ["keys/id_rsa", ".env", ".idea/dataSources.xml"])
def test_a_link_to_a_file_that_may_hold_a_secret_is_left_out(
    whole: Path, tmp_path: Path, target: str
) -> None:
    (whole / target).parent.mkdir(exist_ok=True)
    (whole / target).write_text("x")
    (whole / "rates.txt").symlink_to(target)
    (whole / "more.txt").symlink_to("rates.txt")
    files, left_out = copied("mine:job", tmp_path / "out")
    assert {f"mine/{name} (may hold a secret)" for name in ("rates.txt", "more.txt")} <= {*left_out}
    assert not {"mine/rates.txt", "mine/more.txt", f"mine/{target}"} & files


def test_a_query_that_is_a_link_out_of_the_folder_is_refused(project: Path) -> None:
    query = project / "queries" / "fits.sql"
    (project.parent / "outside.sql").write_text(query.read_text())
    query.unlink()
    query.symlink_to(project.parent / "outside.sql")
    with pytest.raises(PackageError, match=r"fits.sql is a link to .*, outside of the package"):
        copied("job.py", project / "out")


@pytest.mark.parametrize("target", ["file", "folder", "folder inside", "nothing"])
def test_links_that_leave_the_package_are_refused(whole: Path, tmp_path: Path, target: str) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "file").write_text("x")
    to = {
        "file": tmp_path / "outside" / "file",
        "folder": tmp_path / "outside",
        "folder inside": whole / "queries",
        "nothing": tmp_path / "no-such",
    }[target]
    (whole / "link").symlink_to(to)
    with pytest.raises(PackageError, match=f"link is a link to {to}, "):
        copied("mine:job", tmp_path / "out")


def test_a_link_within_the_package_is_a_file(whole: Path, tmp_path: Path) -> None:
    (whole / "rates.txt").write_text("3")
    (whole / "same.txt").symlink_to("rates.txt")
    files, left_out = copied("mine:job", tmp_path / "out")
    assert {"mine/rates.txt", "mine/same.txt"} <= files
    assert left_out == ()
