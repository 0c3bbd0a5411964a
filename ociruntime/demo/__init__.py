"""``python -m ociruntime.demo``: a container of this machine's own files, and the proof that it is one."""
