"""qwen3_ref: an executable explanation of Qwen3. See README.md and notebooks/00_tour.ipynb."""
