"""Removing what is named of a features folder, and nothing else."""
