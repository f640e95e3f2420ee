"""One file an engine: a class `Engine` that answers the worker's questions with that engine alone."""
