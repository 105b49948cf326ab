"""``make check-cuda``: proof on a GPU, in one command, one table and one JSON file."""
