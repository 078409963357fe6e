"""The demo model: its pages, its training and its checkpoint. What a person installs imports nothing from here."""
