"""The code that runs in Lambda: the handlers of the stages, of the workers and of dead letters."""
