"""The version of this package, and the folder of its modules."""

from __future__ import annotations

import os
from pathlib import Path

VERSION = "0.1.0"  # the distribution takes its version from here: pyproject.toml
FOLDER = str(Path(__file__).parent) + os.sep  # prefix of the files of this package in a traceback
