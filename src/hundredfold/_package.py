"""Facts of this package that several modules need: its version, and the folder of its modules."""

from __future__ import annotations

import os
from pathlib import Path

VERSION = "0.1.0"
FOLDER = (
    str(Path(__file__).parent) + os.sep
)  # frames whose file begins with it are ours, not the user's
