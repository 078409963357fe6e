"""Videos: frames at a chosen rate, embedded as images, and the moments of a video that match a text."""
