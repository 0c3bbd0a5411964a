"""Benchmark: whole commands of ociruntime beside those of runc and crun, interleaved in one run."""
