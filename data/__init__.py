"""Images and features at rest: datasets, and the store of embeddings."""
