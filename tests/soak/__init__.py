"""Many containers one after the other and at once, and what grows meanwhile: python -m tests.soak --help."""
