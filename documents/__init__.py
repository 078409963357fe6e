"""Makes a dataset of the pages of PDFs and images."""

from .dataset import PIXELS, load_documents

__all__ = ["PIXELS", "load_documents"]
