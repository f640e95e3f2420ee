"""Figures: the style, and one file of drawings for each notebook, named as the notebook is.

Every drawing takes numbers and returns (figure, data): what is drawn is what is saved beside it.
"""

from qwen3_ref.plots.style import Drawing, new_figure, save_figure

__all__ = ["Drawing", "new_figure", "save_figure"]
