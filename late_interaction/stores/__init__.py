"""Where the vectors of an index are kept: each store is a :class:`late_interaction.stores.base.VectorStore`."""
