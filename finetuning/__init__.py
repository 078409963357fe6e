"""Adapters of one's own: trained on a FiftyOne dataset, on the losses that the paper trains with."""
