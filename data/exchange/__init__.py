"""Features that others made: read into a store, and written from one."""
