"""The bytes of a store: its schema, seal, blocks, texts and records."""
