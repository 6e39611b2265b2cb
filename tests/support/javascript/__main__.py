"""Installs the programs for Node.js: `python -m support.javascript`, in the folder tests."""

import sys

from . import install

sys.exit(not install())
