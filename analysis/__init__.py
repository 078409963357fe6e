"""Measurements of the embedding space and of search on your own dataset. The model does not import this package."""
