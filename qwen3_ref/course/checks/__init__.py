"""The exercises' checks, which name the mistake: one file a lesson, one function an exercise."""
