"""Tables that say which image has which label: CSV, TSV, JSON lines, Parquet, white space."""
