"""Checks of a deployed stack: settings that would make a run fail, slow or expensive."""
