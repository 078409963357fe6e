"""Measurements of the embedding space and of search, on a person's own dataset. The model needs none of this."""
