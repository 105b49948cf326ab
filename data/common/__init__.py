"""What both stages share and that is not data: errors, files, memory, the command line."""
