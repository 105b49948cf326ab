"""How fast stage two is, how much memory it takes, and next to whom; see `python -m benchmarks -h`.

Nothing heavy is imported here: `benchmarks.measure` must start small (it says why).
"""
