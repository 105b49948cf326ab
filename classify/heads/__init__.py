"""The heads that can be trained on features: one a file, behind one interface and one registry."""
