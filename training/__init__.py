"""How the demo model is trained, and how adapters of one's own are.

Nothing of it is needed to use a model.
"""
