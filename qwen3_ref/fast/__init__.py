"""The same model, quicker: weights stored for the processor, and fewer, larger operations a step.
Nothing of its own to compile: PyTorch's kernels, each held against the plain model."""
