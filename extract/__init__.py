"""Stage one: a frozen backbone turns images into embeddings, once."""
