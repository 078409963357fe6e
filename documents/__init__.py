"""PDFs and images, to a dataset of their pages."""

from .dataset import PIXELS, load_documents

__all__ = ["PIXELS", "load_documents"]
