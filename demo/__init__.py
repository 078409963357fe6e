"""The demo model: its pages, its training and its checkpoint. Nothing that a person uses imports anything of it."""
