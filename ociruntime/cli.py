"""The command line: global options, a verb, its options and arguments.

Hot module. Each verb is a module ``ociruntime.commands.<verb>`` with one function ``run(call: Call) -> int`` (the exit
code), where ``Call`` holds what was parsed:

* ``verb``: the verb;
* ``options``: its options by long name (``"pid-file"``): True or False for a switch, str for a value, int for a number,
  list[str] for a repeatable one; an option that was not given is absent;
* ``args``: the arguments (the number is checked already, see cli_options.ARGUMENTS);
* ``globals``: the global options, in the same form. ``call.root()`` is the state directory;
* ``preserve_fds``: how many descriptors from 3 on the container gets (--preserve-fds and LISTEN_FDS).

Option forms (Go's flag package and getopt_long both): ``--opt v``, ``--opt=v``, ``-opt v``, ``-opt=v``, ``-o v``,
``-ov``, ``--switch``, ``--switch=false``, ``-ab`` for two switches; ``--`` ends the options. A repeated option counts
the last time. Options may follow the arguments save for exec and ps.
"""

from __future__ import annotations

import sys

from ociruntime import cli_options, errors, hotpath, log
from ociruntime.host import normalize

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import TypeAlias

    Value: TypeAlias = "str | bool | int | list[str]"
    Options: TypeAlias = dict[str, Value]

HOT_VERBS = frozenset(
    ("create", "start", "state", "kill", "delete", "run", "exec", "pause", "resume", "update")
    + ("features", "list", "ps")
)
"""Verbs that work in the launcher's core phase; every other verb runs in the full interpreter."""

_TRUE = frozenset(("1", "t", "T", "true", "TRUE", "True"))
_FALSE = frozenset(("0", "f", "F", "false", "FALSE", "False"))


class Call:
    """One parsed command line; see the module's head."""

    __slots__ = ("args", "globals", "options", "preserve_fds", "verb")

    def __init__(
        self, verb: str, options: Options, args: list[str], global_options: Options
    ) -> None:
        self.verb = verb
        self.options = options
        self.args = args
        self.globals = global_options
        self.preserve_fds = 0

    def root(self) -> str:
        """The directory that holds a directory for each container (``--root``, or the default)."""
        from ociruntime import state

        given = self.globals.get("root")
        return state.absolute(str(given)) if given else state.default_root()

    def text(self, name: str) -> str | None:
        """The value of an option that takes one; None when it was not given or is empty."""
        value = self.options.get(name)
        return str(value) if value else None

    def switch(self, name: str) -> bool:
        """Whether the switch is on."""
        return self.options.get(name) is True

    def number(self, name: str) -> int:
        """The value of a whole-number option, 0 when it was not given."""
        value = self.options.get(name)
        return value if isinstance(value, int) else 0

    def words(self, name: str) -> list[str]:
        """The values of a repeatable option."""
        value = self.options.get(name)
        return value if isinstance(value, list) else []


def parse(
    tokens: list[str], table: cli_options.Table, *, in_order: bool
) -> tuple[Options, list[str]]:
    """Split ``tokens`` into options and arguments.

    With ``in_order`` the first argument ends the options. Raises errors.UsageError in Go's words.
    """
    options: Options = {}
    args: list[str] = []
    position, count = 0, len(tokens)
    while position < count:
        token = tokens[position]
        position += 1
        if len(token) < 2 or token[0] != "-":
            args.append(token)
            if in_order:
                break
            continue
        if token == "--":
            break
        name, has_value, value = token[2 if token[1] == "-" else 1 :].partition("=")
        entry = table.get(name)
        if entry is None:
            entry, value = _cluster(token, table, options)
            has_value = value
        long, kind = entry
        if kind == cli_options.SWITCH:
            options[long] = _boolean(name, value) if has_value else True
            continue
        if not has_value:
            if position == count:
                raise errors.UsageError(f"flag needs an argument: -{name}")
            value = tokens[position]
            position += 1
        if kind == cli_options.LIST:
            values = options.setdefault(long, [])
            assert isinstance(values, list)
            values.append(value)
        elif kind == cli_options.NUMBER:
            options[long] = _number(name, value)
        else:
            options[long] = value
    args.extend(tokens[position:])
    return options, args


def _cluster(token: str, table: cli_options.Table, options: Options) -> tuple[tuple[str, str], str]:
    """``-abVALUE``: sets the switches, returns the last letter or the first that takes a value, and that value."""
    if token[1] != "-":
        for index in range(1, len(token)):
            entry = table.get(token[index])
            if entry is None:
                break
            if entry[1] != cli_options.SWITCH or index + 1 == len(token):
                return entry, token[index + 1 :]
            options[entry[0]] = True
    name = token.lstrip("-").partition("=")[0]
    raise errors.UsageError(f"flag provided but not defined: -{name}")


def _boolean(name: str, value: str) -> bool:
    if value in _TRUE:
        return True
    if value in _FALSE:
        return False
    raise errors.UsageError(f'invalid boolean value "{value}" for -{name}: parse error')


def _number(name: str, value: str) -> int:
    digits = value[1:] if value[:1] in ("-", "+") else value
    if not (digits.isascii() and digits.isdigit()) or len(digits) > 20:
        raise errors.UsageError(f'invalid value "{value}" for flag -{name}: parse error')
    return int(value)


def usage(verb: str) -> str:
    """One usage line."""
    names = cli_options.ARGUMENTS[verb][2]
    options = " [OPTION…]" if cli_options.VERBS[verb] else ""
    return f"usage: ociruntime {verb}{options} {names}".rstrip()


def _check_count(verb: str, args: list[str]) -> None:
    """Raises errors.UsageError in runc's words when the number of arguments is wrong."""
    least, most, _ = cli_options.ARGUMENTS[verb]
    if len(args) < least:
        words = "exactly" if most == least else "a minimum of"
        raise errors.UsageError(f'ociruntime: "{verb}" requires {words} {least} argument(s)')
    if 0 <= most < len(args):
        words = "exactly" if most == least else "a maximum of"
        raise errors.UsageError(f'ociruntime: "{verb}" requires {words} {most} argument(s)')


def _is_help(verb: str, tokens: list[str]) -> bool:
    """Whether the verb's help is asked for, before its first argument."""
    for token in tokens:
        if token in ("--help", "-h", "-help"):
            return True
        if token == "--" or (verb in cli_options.IN_ORDER and token[:1] != "-"):
            return False
    return False


def version() -> str:
    """What --version prints. Engines read the first two lines; no other line may have the word "version" in it."""
    from ociruntime import __version__

    lines = [
        f"ociruntime version {__version__}",
        f"commit: v{__version__}",
        "spec: 1.3.0",
        f"python: {sys.version.split()[0]} ({hotpath.variant()})",
    ]
    try:
        import posix

        from ociruntime.host import libseccomp

        lines.append(f"libseccomp: {libseccomp.version(posix.uname().machine)}")
    except (ImportError, OSError):
        lines.append("libseccomp: none")
    return "\n".join(lines) + "\n"


def _dispatch(argv: list[str]) -> int:
    options, rest = parse(argv, cli_options.table(cli_options.GLOBAL), in_order=True)
    call: Call | None = None
    wrong: errors.Error | None = None
    verb = rest[0] if rest else "help"
    asks_version = options.get("version") is True
    asks_help = verb == "help" or options.get("help") is True or _is_help(verb, rest[1:])
    if not (asks_help or asks_version):
        try:
            call = _verb(verb, rest[1:], options)
        except errors.Error as exc:
            wrong = exc
    # Before anything is opened, the log included; this is why the verb's options are read first.
    call_fds = 0
    if call is not None:
        call_fds = normalize.start(call.number("preserve-fds"), call.number("status-fd"))
    else:
        normalize.start()
    log.setup(options)
    if wrong is not None:
        raise wrong
    if call is None:
        if asks_version:
            log.out(version())
            return 0
        hotpath.exec_full()
        from ociruntime import cli_help

        return cli_help.show((rest[1] if len(rest) > 1 else "") if verb == "help" else verb)
    if verb not in HOT_VERBS:
        hotpath.exec_full()
    call.preserve_fds = call_fds
    # The launcher's freezer has the names of these modules from hotpath.HOT_MODULES.
    module = __import__(f"ociruntime.commands.{verb}", None, None, ("run",))
    code: int = module.run(call)
    return code


def _verb(verb: str, tokens: list[str], options: Options) -> Call:
    """The call of one verb. Raises errors.Error, after a usage line on stdout where that helps."""
    words = cli_options.VERBS.get(verb)
    if words is None:
        raise errors.Error(f"No help topic for '{verb}'", exit_code=3)
    try:
        verb_options, args = parse(
            tokens, cli_options.table(words), in_order=verb in cli_options.IN_ORDER
        )
        _check_count(verb, args)
    except errors.UsageError:
        log.out(f"Incorrect Usage.\n\n{usage(verb)}\n")
        raise
    return Call(verb, verb_options, args, options)


def trace(exc: BaseException) -> str:
    """A traceback, made without the traceback module (absent in the core phase)."""
    lines = []
    step: TracebackType | None = exc.__traceback__
    while step is not None:
        code = step.tb_frame.f_code
        lines.append(f"  {code.co_filename}:{step.tb_lineno}: {code.co_name}\n")
        step = step.tb_next
    cause = exc.__cause__ or exc.__context__
    before = f"{trace(cause)}then\n" if cause is not None else ""
    return f"{before}{''.join(lines)}  {type(exc).__name__}: {exc}\n"


def main(argv: list[str]) -> int:
    """Run one command (``argv`` without the program's name); the exit code. Lets errors.NeedFullPython through."""
    try:
        return _dispatch(argv)
    except errors.NeedFullPython:
        raise
    except errors.Error as exc:
        failure: BaseException = exc
        error = exc
    except OSError as exc:
        failure = exc
        error = errors.from_os(exc, str(exc.filename or "system call"))
    except MemoryError as exc:
        failure = exc
        error = errors.Error("out of memory")
    except (
        ImportError
    ) as exc:  # the loader's word: no memory, no descriptors, a damaged installation
        failure = exc
        error = errors.Error(f"load a part of the runtime: {exc}")
    except (Exception, KeyboardInterrupt) as exc:
        failure = exc
        error = errors.Error(
            f"internal error: {type(exc).__name__}: {exc}",
            hint="run the command again with --debug for a traceback",
        )
    if log.debugging():
        log.err(trace(failure))
    log.fatal(error)
    return error.exit_code
