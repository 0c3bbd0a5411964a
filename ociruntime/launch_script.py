"""The full interpreter's way in: ``python -IS launch_script.py ARGS`` runs the command line ARGS.

Started by the launcher for what the core phase cannot do, and by the installed command where there is no launcher.
``-I`` keeps PYTHONPATH and the current directory out (a caller's environment must not decide what code root runs),
``-S`` saves the search for site directories: they were written down by the build.
"""

from __future__ import annotations

import posix
import sys


def main() -> int:
    """Run ``sys.argv``; the exit code."""
    site = __file__.rsplit("/", 2)[0]
    if site not in sys.path:
        sys.path.append(site)
    from ociruntime import hotpath

    try:
        from ociruntime._build_info import EXTRA_SITES
    except ImportError:  # a source checkout
        EXTRA_SITES = ()
    sys.path.extend(EXTRA_SITES)
    return hotpath.main(sys.argv[1:])


def run() -> None:
    """Run ``sys.argv`` and end the process: what was written is flushed, finalising the interpreter is saved."""
    try:
        code = main()
    except (
        ImportError,
        MemoryError,
    ) as exc:  # the loader's word; cli.py answers for what comes after it
        sys.stderr.write(f"cannot start: {exc or 'out of memory'}\n")
        code = 1
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            try:
                stream.flush()
            except OSError:
                code = code or 1
    posix._exit(code)


if __name__ == "__main__":
    run()
