"""Synthetic pages: what is on a page, how people ask for it in three languages, and its picture."""
