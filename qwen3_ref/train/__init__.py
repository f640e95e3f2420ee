"""The nano family's training: the loop, its state, the corpus; `recipes/` has one file a stage."""
