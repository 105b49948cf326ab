"""One command, ``icebox``, for all that the programs of both stages do."""
