"""The former place of :mod:`finetuning`."""
