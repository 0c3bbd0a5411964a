"""The command line: option forms, counts, help, version, exit codes."""

from __future__ import annotations

import pytest
from pytest_subtests import SubTests

from ociruntime import cli, cli_help, cli_options, errors

CREATE = cli_options.table(cli_options.VERBS["create"])
EXEC = cli_options.table(cli_options.VERBS["exec"])
KILL = cli_options.table(cli_options.VERBS["kill"])
GLOBAL = cli_options.table(cli_options.GLOBAL)

ACCEPTED = [
    # verb's table, tokens, options, arguments
    (CREATE, ["--bundle", "/b", "id"], {"bundle": "/b"}, ["id"]),
    (CREATE, ["--bundle=/b", "id"], {"bundle": "/b"}, ["id"]),
    (CREATE, ["-bundle", "/b", "id"], {"bundle": "/b"}, ["id"]),
    (CREATE, ["-bundle=/b", "id"], {"bundle": "/b"}, ["id"]),
    (CREATE, ["-b", "/b", "id"], {"bundle": "/b"}, ["id"]),
    (CREATE, ["-b=/b", "id"], {"bundle": "/b"}, ["id"]),
    (CREATE, ["-b/b", "id"], {"bundle": "/b"}, ["id"]),
    (CREATE, ["--bundle", "", "id"], {"bundle": ""}, ["id"]),
    (CREATE, ["--bundle=", "id"], {"bundle": ""}, ["id"]),
    (CREATE, ["--bundle", "-x", "id"], {"bundle": "-x"}, ["id"]),
    (CREATE, ["-b", "1", "-b", "2", "id"], {"bundle": "2"}, ["id"]),
    (CREATE, ["id", "-b", "1"], {"bundle": "1"}, ["id"]),
    (CREATE, ["--", "-b"], {}, ["-b"]),
    (CREATE, ["-"], {}, ["-"]),
    (CREATE, ["--no-pivot"], {"no-pivot": True}, []),
    (CREATE, ["-no-pivot"], {"no-pivot": True}, []),
    (CREATE, ["--no-pivot=false"], {"no-pivot": False}, []),
    (CREATE, ["--no-pivot=T"], {"no-pivot": True}, []),
    (CREATE, ["--preserve-fds", "3"], {"preserve-fds": 3}, []),
    (CREATE, ["--preserve-fds=-1"], {"preserve-fds": -1}, []),
    (KILL, ["-a", "id", "9"], {"all": True}, ["id", "9"]),
    (KILL, ["id", "9", "--all"], {"all": True}, ["id", "9"]),
    (EXEC, ["-e", "A=1", "--env=B=2", "-eC=3"], {"env": ["A=1", "B=2", "C=3"]}, []),
    (EXEC, ["-td", "id"], {"tty": True, "detach": True}, ["id"]),
    (EXEC, ["-tu", "5", "id"], {"tty": True, "user": "5"}, ["id"]),
    (GLOBAL, ["--log-format=json", "--debug"], {"log-format": "json", "debug": True}, []),
]

REFUSED = [
    (CREATE, ["--bogus"], "flag provided but not defined: -bogus"),
    (CREATE, ["--bogus=1"], "flag provided but not defined: -bogus"),
    (CREATE, ["-x"], "flag provided but not defined: -x"),
    (CREATE, ["--b"], "flag needs an argument: -b"),
    (CREATE, ["--bundle"], "flag needs an argument: -bundle"),
    (CREATE, ["-b"], "flag needs an argument: -b"),
    (CREATE, ["--no-pivot=maybe"], 'invalid boolean value "maybe" for -no-pivot: parse error'),
    (CREATE, ["--preserve-fds", "x"], 'invalid value "x" for flag -preserve-fds: parse error'),
    (CREATE, ["--preserve-fds", ""], 'invalid value "" for flag -preserve-fds: parse error'),
    (CREATE, ["--preserve-fds", "١"], 'invalid value "١" for flag -preserve-fds: parse error'),
    (EXEC, ["-tx"], "flag provided but not defined: -tx"),
    (KILL, ["id", "-9"], "flag provided but not defined: -9"),
]


def test_option_forms(subtests: SubTests) -> None:
    for table, tokens, options, args in ACCEPTED:
        with subtests.test(" ".join(tokens)):
            assert cli.parse(list(tokens), table, in_order=False) == (options, args)


def test_refused_options(subtests: SubTests) -> None:
    for table, tokens, message in REFUSED:
        with subtests.test(" ".join(tokens)), pytest.raises(errors.UsageError) as caught:
            cli.parse(list(tokens), table, in_order=False)
        with subtests.test(f"message of {' '.join(tokens)}"):
            assert caught.value.message == message


def test_exec_options_end_at_the_id() -> None:
    options, args = cli.parse(["-t", "id", "ls", "-l", "--", "x"], EXEC, in_order=True)
    assert options == {"tty": True}
    assert args == ["id", "ls", "-l", "--", "x"]


COUNTS = [
    ("state", [], 'ociruntime: "state" requires exactly 1 argument(s)'),
    ("state", ["a", "b"], 'ociruntime: "state" requires exactly 1 argument(s)'),
    ("kill", [], 'ociruntime: "kill" requires a minimum of 1 argument(s)'),
    ("kill", ["a", "b", "c"], 'ociruntime: "kill" requires a maximum of 2 argument(s)'),
    ("exec", [], 'ociruntime: "exec" requires a minimum of 1 argument(s)'),
    ("list", ["a"], 'ociruntime: "list" requires exactly 0 argument(s)'),
]


def test_wrong_number_of_arguments(subtests: SubTests, capfd: pytest.CaptureFixture[str]) -> None:
    for verb, args, message in COUNTS:
        with subtests.test(f"{verb} {args}"):
            with pytest.raises(errors.UsageError) as caught:
                cli._verb(verb, list(args), {})
            assert caught.value.message == message
            assert caught.value.exit_code == 1
            assert f"usage: ociruntime {verb}" in capfd.readouterr().out


def test_unknown_verb_is_exit_code_3() -> None:
    with pytest.raises(errors.Error) as caught:
        cli._verb("bogus", [], {})
    assert (caught.value.message, caught.value.exit_code) == ("No help topic for 'bogus'", 3)


def test_help_and_tables_agree() -> None:
    assert set(cli_options.VERBS) == set(cli_options.ARGUMENTS) == set(cli_help.SUMMARY)
    assert set(cli_help.GLOBAL) == {long for long, _ in GLOBAL.values()}
    used = {
        long
        for words in cli_options.VERBS.values()
        for long, _ in cli_options.table(words).values()
    }
    assert set(cli_help.OPTIONS) <= used
    criu = {
        long
        for verb in ("checkpoint", "restore")
        for long, _ in cli_options.table(cli_options.VERBS[verb]).values()
    }
    assert used - set(cli_help.OPTIONS) <= criu, "an option without a help text"


def test_help_of_every_verb(subtests: SubTests) -> None:
    for verb in cli_options.VERBS:
        with subtests.test(verb):
            text = cli_help.of_verb(verb)
            assert text.startswith(f"usage: ociruntime {verb}")
            assert max(map(len, text.splitlines())) <= 100
            for long, _ in cli_options.table(cli_options.VERBS[verb]).values():
                assert f"--{long}" in text


def test_help_before_the_first_argument_only() -> None:
    assert cli._is_help("create", ["--help"])
    assert cli._is_help("create", ["x", "-h"])
    assert not cli._is_help("exec", ["x", "--help"])
    assert not cli._is_help("create", ["--", "--help"])


def test_version_is_what_engines_parse() -> None:
    lines = cli.version().splitlines()
    assert lines[0].split()[:2] == ["ociruntime", "version"]
    assert lines[1].startswith("commit: ")
    assert lines[2] == "spec: 1.3.0"
    # dockerd takes the text after the last "version" of any line for the version.
    assert not any("version" in line for line in lines[1:])
