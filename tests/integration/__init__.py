"""Integration tests: a runtime as a black box; see harness.py."""
