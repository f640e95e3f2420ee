"""What stops a training run, in a sentence."""


class TrainingError(Exception):
    """Training that cannot start or go on: the sentence says why, and what is intact."""


class Interrupted(TrainingError):
    """Training that Ctrl-C stopped."""


class NotFinite(TrainingError):
    """A loss or a gradient that is NaN or infinite: the run has diverged."""
