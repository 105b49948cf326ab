"""Stage one on many machines: a coordinator, its crew of workers, and their messages."""
