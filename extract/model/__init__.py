"""The backbone: its weights, names and preprocessing."""
