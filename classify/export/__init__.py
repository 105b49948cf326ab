"""The command ``export``: a trained head in a form that other programs run, checked by running."""
