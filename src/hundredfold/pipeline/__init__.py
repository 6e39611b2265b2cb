"""The stages of a run, one module each, and the runner that does what every backend does at a
stage.
"""
