"""The names of the datasets that Icebox knows how to read by name."""

from __future__ import annotations

# A folder of images never has one of these names.
BUILT_IN = ("cifar10", "cifar100", "digits", "elpv")
