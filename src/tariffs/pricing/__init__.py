"""Prices of bundles and voice: estimation, a unit's price, and limits across units."""
