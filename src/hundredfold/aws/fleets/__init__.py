"""Fleets: workers in containers that a run starts for itself, and that end with it."""
