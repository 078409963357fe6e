"""Trains your own adapters on a FiftyOne dataset, with the paper's losses."""
