"""The forms that a program is written in: one file a form, loaded when it is asked for.

A form's module has ``write(program, out)``, which writes a file or folder that is not there yet,
and ``answers(path, images)``, which runs what was written on image files and shares as little as it
can with what wrote it: it returns probabilities (n, n_classes) and labels (n,).
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

FORMS = {
    "onnx": "extract.exporting.onnx_file",
    "torch": "extract.exporting.torch_folder",
    "timm": "extract.exporting.timm_folder",
}


def form_of(name: str) -> ModuleType:
    """Import the module of a form."""
    return import_module(FORMS[name])
