"""An OCI container runtime: a compiler in Python and a tiny machine in C."""

__version__ = "0.1.0"
