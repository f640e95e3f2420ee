"""Leaving this house: a checkpoint written as other engines load it, each with its settings and the command
that runs it, and read back from their files. Every engine gets the same weights under other names, so it
owes the same tokens."""
