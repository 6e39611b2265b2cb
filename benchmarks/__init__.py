"""Benchmarks: how long, how much memory, beside what. See README.md in this
folder for the figures.
"""
