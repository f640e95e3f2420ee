"""One thread a process, as `make test` sets it: two threads make these small tensors ten times slower,
and sums come out the same on every run. Set before torch is imported."""

import os

for name, value in {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
}.items():
    os.environ.setdefault(name, value)
