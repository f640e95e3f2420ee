"""Figures: the style, and one file of drawings for each lesson. A drawing takes numbers and returns
(figure, data): what is drawn is what is saved beside it."""
