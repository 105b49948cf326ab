"""Heads exported in every form: sizes, agreement with ``predict``, and images a second."""
