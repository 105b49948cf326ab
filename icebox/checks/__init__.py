"""What ``icebox doctor`` looks at: a file a subject. Nothing is changed."""
