"""The time that counts as now for the guards, and the identity of the person who decides.

The time is evidence: a guard as of another day judges another day.  So `--as-of` needs a reason,
and the log records both.  The demo's data are of a week long ago; a file in its folder has the time
at which to examine them, which is then used and logged.

A name is what a person types; an account is authenticated by the system.  On this machine that is
the user of the process: by its login, where the kernel keeps it (`/proc/self/loginuid` survives
`su` and `sudo`), or the caller of `sudo`; on AWS it is the IAM principal that STS returns.
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

DEMO_CLOCK = "demo.json"  # in the folder of a demo's data
MAX_CLOCK_DIFFERENCE = dt.timedelta(hours=1)
LOGIN_UID_UNSET = 4_294_967_295  # the kernel's value for a process without a login
SSO_ROLE = "AWSReservedSSO_"


@dataclass(frozen=True, slots=True)
class Clock:
    """The time that counts as now.

    now          aware, in UTC
    description  how it was set; "" for the time of day
    is_explicit  whether a person set it
    """

    now: dt.datetime
    description: str = ""
    is_explicit: bool = False


def clock_of(
    as_of: str | None, release: Release | None, home: RunHome, today: dt.datetime | None = None
) -> Clock:
    """Return the time of --as-of; else the demo's, for a release of its data; else the present."""
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
    """Return a time, UTC if it names no zone; UsageError if the text is no time."""
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
    """Return whether the sales of the release's run are in a folder that a demo made."""
    try:
        options: Mapping[str, Any] = home.ledger.read(release.run).options
        source = str(options["sources"]["bundle_sales"])
    except (HundredfoldError, KeyError, OSError, TypeError):
        return False
    if "://" in source:
        return False
    path = Path(str(options.get("folder", "."))) / source
    return any((up / DEMO_CLOCK).is_file() for up in list(path.parents)[:2])


def local_account() -> tuple[str, str]:
    """Return the authenticated account of this process, and its name; ("", "") if there is none."""
    if not hasattr(os, "getuid"):
        domain, user = os.environ.get("USERDOMAIN", ""), os.environ.get("USERNAME", "")
        return (f"{domain}\\{user}", user) if user else ("", "")
    uid = _login_uid()
    name = _name_of(uid)
    return f"uid {uid} ({name or 'no name'})", name or f"uid {uid}"


def _login_uid() -> int:
    """Return the user id of the login, of the caller of sudo, or of the process."""
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
    """Return the authenticated part of a caller's ARN.

    The caller chooses the session name of an assumed role, so it is no proof; only IAM Identity
    Center sets it to the person.
    """
    head, _, session = arn.rpartition("/")
    return head if ":assumed-role/" in arn and session and SSO_ROLE not in arn else arn
