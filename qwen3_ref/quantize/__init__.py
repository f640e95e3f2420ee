"""Fewer bits: rounding weights to 2 to 8 bits, GPTQ and AWQ, and a KV cache in 8 or 4.
NumPy's specification first, then modules that work on the codes."""
