"""Which vector of a network is the feature: how it is pooled, and from which layer."""
