"""One module for each verb, with a function ``run(call) -> int``; cli.py has the interface."""
