"""Two classes: how well a head ranks rows, and what its answers cost at which threshold.

Everything here takes truths and log-odds, so that any head with probabilities is judged alike. One
of the two classes is *positive*, the second by its index; a row is *flagged* at a threshold where
its probability of that class is above it.
"""
