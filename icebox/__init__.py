"""One command, ``icebox``, for all that the programs of both stages of Icebox do."""

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

# Before anything imports one of these: what lies under their names may not be Icebox's.
_file = Path(__file__).parents[1] / "data" / "common" / "own_packages.py"
_spec = spec_from_file_location("_own_packages", _file)
assert _spec is not None and _spec.loader is not None
_own_packages = module_from_spec(_spec)
_spec.loader.exec_module(_own_packages)
_own_packages.check("data", "extract", "classify", command=True)
