"""The solver's twin on a device; only here may stage two import torch."""
