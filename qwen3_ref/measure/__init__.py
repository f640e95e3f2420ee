"""What models can do, with intervals: accuracy by budget, the measured table, experiments."""
