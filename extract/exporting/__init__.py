"""A backbone and a head as one program, in the forms that other programs run."""
