"""A disk of a given size, which goes when its process ends, however that ends; not a test."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


class SmallDisk:
    """A file system in memory over a folder; root alone may make one, on Linux."""

    def __init__(self, folder):
        self.folder = Path(folder)

    def __enter__(self):
        self.folder.mkdir()
        # A process in a session of its own, which reads what nobody writes: its input ends with
        # this process, also where that is killed.
        self._guard = subprocess.Popen(
            ["sh", "-c", 'read -r _; umount -l "$1" 2>/dev/null', "guard", self.folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        return self

    def mount(self, size, *more):
        """Make the disk, or change it (``remount,``); say whether that could be done."""
        words = ["mount", "-t", "tmpfs", "-o", f"{''.join(more)}size={size}", "tmpfs", self.folder]
        return sys.platform == "linux" and not subprocess.run(words, capture_output=True).returncode

    def __exit__(self, *_):
        self._guard.communicate()
