"""Late-interaction search in FiftyOne: the similarity backend, its stores, and the heatmaps that explain a match."""
