"""Installs the programs for Node.js: `python -m support.javascript`, in the folder tests."""

from . import install

install()
