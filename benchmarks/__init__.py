"""Side-by-side speed and memory: ours and the installed peers, taking turns, on the same weights.

`python -m benchmarks all` measures everything; README says what is compared with what. Each contestant is a
process of its own, loaded once; they run one after the other, round by round, so that a busy minute meets
them all. Nothing here is imported by the package."""
