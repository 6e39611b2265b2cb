"""Code that runs in Lambda: the handlers of the state machine's stages, the worker, and the
dead-letter function.
"""
