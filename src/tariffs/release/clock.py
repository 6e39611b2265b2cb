"""What counts as now for the guards, and who says it.

The clock is evidence: a guard that is asked as of another day than today judges another day.  So `--as-of` needs a reason, and the log
keeps both.  The demo's data are of a week that is long over; its folder says as of when they are to be looked at, and that clock is used, and logged.

Who says it: a name is what a person writes; an account is what the system has authenticated.  On this machine that is the user of the
process, by its login where the kernel keeps it (`/proc/self/loginuid` survives `su` and `sudo`), or by whom `sudo` was called; on AWS it
is the IAM principal that STS names.
"""

from __future__ import annotations

import datetime as dt
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hundredfold.errors import HundredfoldError, UsageError
from hundredfold.releases import Release, RunHome

DEMO_CLOCK = "demo.json"  # in the folder of data that a demo made
MAX_CLOCK_DIFFERENCE = dt.timedelta(hours=1)
LOGIN_UID_UNSET = 4_294_967_295  # what the kernel says for a process that nobody logged in to start
SSO_ROLE = "AWSReservedSSO_"


@dataclass(frozen=True, slots=True)
class Clock:
    """`now` is aware, UTC; `told` how it was set, "" for the time of day.  `by_hand` where a person set it."""

    now: dt.datetime
    description: str = ""
    is_explicit: bool = False


def clock_of(
    as_of: str | None, release: Release | None, home: RunHome, today: dt.datetime | None = None
) -> Clock:
    """The time that --as-of says; else that of the demo, for a release of its data; else the time of day."""
    today = today or dt.datetime.now(dt.UTC)
    if as_of is not None:
        moment = parse_as_of(as_of)
        same_day = len(as_of) == len("2026-06-30") and moment.date() == today.date()
        if same_day or abs(moment - today) <= MAX_CLOCK_DIFFERENCE:
            return Clock(today)
        return Clock(moment, f"{moment:%Y-%m-%d %H:%M} UTC, by --as-of", is_explicit=True)
    if release is not None and _is_demo_data(release, home):
        moment = parse_as_of(release.as_of)
        return Clock(moment, f"{moment:%Y-%m-%d %H:%M} UTC, the clock of the demo's data")
    return Clock(today)


def parse_as_of(text: str) -> dt.datetime:
    """A moment, UTC where it names no zone; UsageError if it is none."""
    try:
        moment = dt.datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(
            f"--as-of is {text!r}, wanted a time such as 2026-06-30 or 2026-06-30T12:00"
        ) from None
    return moment.astimezone(dt.UTC) if moment.tzinfo else moment.replace(tzinfo=dt.UTC)


def write_demo_clock(folder: Path, as_of: str) -> None:
    (folder / DEMO_CLOCK).write_text(json.dumps({"as_of": as_of}) + "\n")


def _is_demo_data(release: Release, home: RunHome) -> bool:
    """Whether the sales of the release's run lie in a folder that a demo made."""
    try:
        options: Mapping[str, Any] = home.ledger.read(release.run).options
        place = str(options["sources"]["bundle_sales"])
    except (HundredfoldError, KeyError, OSError, TypeError):
        return False
    if "://" in place:
        return False
    path = Path(str(options.get("folder", "."))) / place
    return any((up / DEMO_CLOCK).is_file() for up in list(path.parents)[:2])


def local_account() -> tuple[str, str]:
    """The authenticated account of this process, and its name; ("", "") where the system has none."""
    if not hasattr(os, "getuid"):
        domain, user = os.environ.get("USERDOMAIN", ""), os.environ.get("USERNAME", "")
        return (f"{domain}\\{user}", user) if user else ("", "")
    uid = _login_uid()
    name = _name_of(uid)
    return f"uid {uid} ({name or 'no name'})", name or f"uid {uid}"


def _login_uid() -> int:
    """Who logged in; who called sudo; who the process runs as."""
    try:
        uid = int(Path("/proc/self/loginuid").read_text())
        if uid != LOGIN_UID_UNSET:
            return uid
    except (OSError, ValueError):
        pass
    if os.getuid() == 0 and os.environ.get("SUDO_UID", "").isdigit():
        return int(os.environ["SUDO_UID"])
    return os.getuid()


def _name_of(uid: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return ""


def principal(arn: str) -> str:
    """The part of a caller's ARN that was authenticated.

    The session's name of an assumed role is chosen by whoever assumes it, so it is no proof; IAM Identity Center sets it to the person.
    """
    head, _, session = arn.rpartition("/")
    return head if ":assumed-role/" in arn and session and SSO_ROLE not in arn else arn
