"""``python -m classify fit``: from stores to fitted strategies and their output."""
