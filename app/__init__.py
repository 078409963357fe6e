"""What the FiftyOne App shows: the operators that index and search pages, and the panel *Page search*."""
