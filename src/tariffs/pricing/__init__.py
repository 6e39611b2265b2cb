"""Prices of bundles and voice: estimation, the price of a unit, and the limits on the whole portfolio."""
