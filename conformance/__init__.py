"""A suite that judges any OCI runtime by the text of the runtime specification alone.

Standard library only; run it with `python -m conformance --runtime PATH`.
"""
