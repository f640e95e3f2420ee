"""Small mistakes put into the package at random, and whether a test notices: `python -m tests.mutants`."""
