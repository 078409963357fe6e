"""The seam with FiftyOne: its arguments, its form, its data loader, its operators, and the copies that it keeps."""
