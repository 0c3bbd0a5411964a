"""``python -m ociruntime``: the command from a source checkout."""

from ociruntime.launch_script import run

run()
