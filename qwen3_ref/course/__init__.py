"""What the notebooks need and the model does not: the comparison line, exercises' checks, figures."""
