"""The seam with FiftyOne: its arguments, its form, its data loader, and the copies that it keeps."""
