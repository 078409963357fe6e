"""The command ``jina-fiftyone``: index a folder, search it, fine-tune, and see what this machine can do."""
