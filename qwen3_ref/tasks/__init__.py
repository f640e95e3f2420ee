"""Verifiable problems with a dial for difficulty, solvers that write their steps, and checkers."""
