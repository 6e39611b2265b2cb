"""Whole projects of the kind that hundredfold runs, each in a folder of its own. Run them from the
folder above this one.
"""
