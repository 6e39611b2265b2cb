"""Checks of a deployed stack: what is configured so that a run would fail, be slow or be expensive."""
