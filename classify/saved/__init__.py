"""Trained heads on disk, and what they remember of the stores that they were trained on."""
