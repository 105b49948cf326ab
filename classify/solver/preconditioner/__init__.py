"""Approximate inverse Hessians of many problems at once."""
