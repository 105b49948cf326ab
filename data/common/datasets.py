"""The names of the datasets that Icebox reads by itself."""

from __future__ import annotations

# Their images are arrays; a folder of images never has one of these names.
BUILT_IN = ("cifar10", "cifar100", "digits")
