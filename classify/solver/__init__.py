"""The solver: arrays in, a solution out; no files, no printing, no warnings."""
