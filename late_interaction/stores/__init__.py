"""The stores that keep the vectors of an index, each a :class:`late_interaction.stores.base.VectorStore`."""
