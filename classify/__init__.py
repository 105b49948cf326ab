"""Stage two: classifiers trained on cached embeddings, evaluated and compared."""
