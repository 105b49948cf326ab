"""results.json, the one file that a report and a comparison read: its shape, reading and names."""
