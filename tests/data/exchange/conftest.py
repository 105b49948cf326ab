"""Lets the tests beside it import `features_for_tests` by name."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
