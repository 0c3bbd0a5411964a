"""Faults: every system call of every verb made to fail, and its caller killed before it (`python -m tests.faults`)."""
