"""Benchmarks of Hundredfold: beside its peers, and alone from ten thousand units to ten million.

    python -m benchmarks compare --workloads W1 W2 --engines hundredfold bare pandas --rounds 3
    python -m benchmarks report                     # what compare found, into benchmarks/README.md
    python -m benchmarks scale --units 10000 100000 1000000 --memory 4GB

`make bench-peers` installs the peers. Run it where nothing else runs: the CPU that others use is
measured, and such runs are marked.
"""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

from benchmarks import compare, report, scale
from benchmarks.engines import ENGINES, QUICK
from benchmarks.workloads import WORKLOADS


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(required=True, metavar="compare | report | scale")
    _compare(verbs.add_parser("compare", help="run the engines side by side"))
    _report(verbs.add_parser("report", help="write tables and plots of the results into README.md"))
    _scale(verbs.add_parser("scale", help="Hundredfold alone, on ever more units"))
    given = parser.parse_args()
    signal.signal(
        signal.SIGTERM, lambda *_: sys.exit(143)
    )  # so that a run that is under way is cleaned up
    given.do(given)


def _compare(verb: argparse.ArgumentParser) -> None:
    names = (
        f"all, or some of {', '.join(ENGINES)}; NAME@free, on W3 only, leaves the threads of "
        "BLAS alone"
    )
    verb.add_argument(
        "--workloads",
        nargs="+",
        choices=WORKLOADS,
        default=list(WORKLOADS),
        metavar="NAME",
        help=f"all, or some of {', '.join(WORKLOADS)}",
    )
    verb.add_argument(
        "--engines",
        nargs="+",
        type=_known,
        default=[*ENGINES, *compare.UNPINNED],
        metavar="NAME",
        help=names,
    )
    verb.add_argument(
        "--cap",
        type=float,
        default=600,
        metavar="S",
        help="a run is stopped after so many seconds (600)",
    )
    verb.add_argument(
        "--slow",
        type=float,
        default=60,
        metavar="S",
        help="an engine that takes more seconds than this is run once (60)",
    )
    _keeps_runs(verb, "peers.jsonl")
    verb.add_argument(
        "--quick",
        action="store_true",
        help="tiny and W1, few engines, under three minutes; prints its tables",
    )
    verb.set_defaults(do=_do_compare)


def _keeps_runs(verb: argparse.ArgumentParser, file: str) -> None:
    verb.add_argument(
        "--rounds", type=int, default=3, metavar="N", help="runs of each, interleaved (3)"
    )
    path = compare.RESULTS / file
    verb.add_argument(
        "--results",
        type=Path,
        default=path,
        metavar="FILE",
        help=f"where the runs are written (results/{file})",
    )
    verb.add_argument(
        "--resume",
        action="store_true",
        help="add what is missing to the results, instead of beginning anew",
    )


def _known(name: str) -> str:
    try:
        return compare.engine(name).name
    except KeyError:
        raise argparse.ArgumentTypeError(f"no engine {name!r}") from None


def _do_compare(given: argparse.Namespace) -> None:
    command = ["python", "-m", "benchmarks", *sys.argv[1:]]
    if given.quick:
        results = compare.RESULTS / "quick.jsonl"
        quick = compare.Plan(("W1", "tiny"), QUICK, rounds=2, cap=30, slow=5, budget=140)
        compare.series(quick, results, resume=False, command=command)
        print(f"\n{report.summary(results)}\n")
        if missing := compare.not_installed():
            print(
                f"left out, since not installed: the peers of {', '.join(missing)}\nhint: make "
                "bench-peers, then make bench-full"
            )
        return
    plan = compare.Plan(given.workloads, given.engines, given.rounds, given.cap, given.slow)
    compare.series(plan, given.results, given.resume, command)


def _report(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--results",
        type=Path,
        default=compare.RESULTS / "peers.jsonl",
        metavar="FILE",
        help="of compare (results/peers.jsonl)",
    )
    verb.add_argument(
        "--scale",
        type=Path,
        default=compare.RESULTS / "scale.jsonl",
        metavar="FILE",
        help="of scale (results/scale.jsonl)",
    )
    verb.set_defaults(do=_do_report)


def _do_report(given: argparse.Namespace) -> None:
    for results, publish in ((given.results, report.publish), (given.scale, scale.publish)):
        if results.exists():
            publish(results)
            print(f"{results} is in benchmarks/README.md")


def _scale(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--units",
        type=int,
        nargs="*",
        default=[10_000, 100_000, 1_000_000],
        metavar="N",
        help="10000 100000 1000000, or others",
    )
    verb.add_argument("--rows", type=int, default=10, metavar="N", help="rows of a unit (10)")
    verb.add_argument(
        "--memory",
        default="4GB",
        metavar="SIZE",
        help="what Hundredfold is told that it may use (4GB)",
    )
    verb.add_argument(
        "--workers",
        type=int,
        nargs="*",
        default=[1, 2, 4, 8, 16],
        metavar="N",
        help="for the speed-up, as far as there are cores: 1 2 4 8 16, or others",
    )
    _keeps_runs(verb, "scale.jsonl")
    verb.set_defaults(do=_do_scale)


def _do_scale(given: argparse.Namespace) -> None:
    command = ["python", "-m", "benchmarks", *sys.argv[1:]]
    scale.series(
        given.units,
        given.rows,
        given.memory,
        given.workers,
        given.rounds,
        given.results,
        given.resume,
        command,
    )


if __name__ == "__main__":
    main()
