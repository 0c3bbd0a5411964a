"""The manual pages: `python install/manual.py DIR`.

Names, options and texts come from the tables of the command line, so that no page can be out of date. What no table
says stands in install/man/: `ociruntime.8` with marks for the lists, `ociruntime-errors.7`, and `VERB.8` with further
sections of one verb's page.
"""

from __future__ import annotations

import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)

from cli_words import Option, options

from ociruntime import __version__, cli_help, cli_options

SECTION = 8


def escape(text: str) -> str:
    """Plain text as roff: nothing in it is a request."""
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("…", "\\|.\\|.\\|.")
    return f"\\&{text}" if text[:1] in (".", "'") else text


def sentence(text: str) -> str:
    """``text`` as roff, with a capital letter and a full stop."""
    end = "" if text.endswith((".", "?")) else "."
    return escape(text[:1].upper() + text[1:] + end)


def paragraphs(text: str) -> list[str]:
    """Sentences, one a line, as roff wants them."""
    words = " ".join(text.split())
    return escape(words).replace(". ", ".\n").split("\n")


def title(page: str, section: int) -> str:
    return f'.TH {escape(page.upper())} {section} "" "ociruntime {__version__}" "System administration"'


def option_rows(verb: str) -> list[str]:
    rows = []
    for option in options(verb):
        rows += [".TP", _names(option), sentence(option.text)]
        if option.choices and len(option.choices) < 9 and option.choices[0] not in option.text:
            rows.append(f"One of {escape(', '.join(option.choices))}.")
    return rows


def _names(option: Option) -> str:
    names = ", ".join(f"\\fB{escape(name)}\\fR" for name in option.names)
    return names + (f" \\fI{escape(option.placeholder)}\\fR" if option.placeholder else "")


def verb_rows() -> list[str]:
    rows = []
    for verb, text in cli_help.SUMMARY.items():
        rows += [".TP", f"\\fB{escape(verb)}\\fR", sentence(text)]
    return rows


def see_also(names: list[tuple[str, int]]) -> list[str]:
    ends = [","] * (len(names) - 1) + [""]
    lines = [
        f".BR {escape(name)} ({section}){end}"
        for (name, section), end in zip(names, ends, strict=True)
    ]
    return [".SH SEE ALSO", *lines]


def part(name: str) -> str:
    """A hand-written part, empty if there is none."""
    path = os.path.join(HERE, "man", name)
    if not os.path.exists(path):
        return ""
    with open(path, encoding="utf-8") as file:
        return file.read()


def of_verb(verb: str) -> str:
    """The page ociruntime-VERB(8)."""
    page = f"ociruntime-{verb}"
    arguments = cli_options.ARGUMENTS[verb][2]
    lines = [
        title(page, SECTION),
        ".SH NAME",
        f"{escape(page)} \\- {escape(cli_help.SUMMARY[verb])}",
    ]
    lines.append(".SH SYNOPSIS")
    for number, form in enumerate(arguments.split("  |  ")):
        lines += [".br"] if number else []
        lines += [f".B ociruntime {escape(verb)}", "[\\fIOPTION\\fR\\|.\\|.\\|.]"]
        lines += [f"\\fI{escape(form)}\\fR"] if form else []
    lines += [".SH DESCRIPTION", sentence(cli_help.SUMMARY[verb])]
    lines += paragraphs(cli_help.DETAIL.get(verb, ""))
    lines += [".SH OPTIONS", *option_rows(verb), part(f"{verb}.8").rstrip()]
    lines += see_also([("ociruntime", SECTION), ("ociruntime-errors", 7)])
    return "\n".join(line for line in lines if line) + "\n"


def overview() -> str:
    """The page ociruntime(8)."""
    pages = [(f"ociruntime-{verb}", SECTION) for verb in sorted(cli_options.VERBS)]
    others = [("podman", 1), ("dockerd", 8), ("namespaces", 7), ("cgroups", 7), ("capabilities", 7)]
    text = part("ociruntime.8")
    for mark, rows in {
        "@TITLE@": [title("ociruntime", SECTION)],
        "@VERBS@": verb_rows(),
        "@OPTIONS@": option_rows(""),
        "@SEE_ALSO@": see_also([*pages, ("ociruntime-errors", 7), *others]),
    }.items():
        text = text.replace(mark, "\n".join(rows))
    return text


def pages() -> dict[str, str]:
    """Every page: its path below share/man, and its text."""
    found = {f"man{SECTION}/ociruntime.8": overview()}
    found["man7/ociruntime-errors.7"] = part("ociruntime-errors.7").replace(
        "@TITLE@", title("ociruntime-errors", 7)
    )
    for verb in cli_options.VERBS:
        found[f"man{SECTION}/ociruntime-{verb}.8"] = of_verb(verb)
    return found


def write(directory: str) -> None:
    """Write all pages below ``directory``, which is share/man."""
    for path, text in pages().items():
        target = os.path.join(directory, path)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with open(target, "w", encoding="utf-8") as file:
            file.write(text)


if __name__ == "__main__":
    write(sys.argv[1])
