"""Completion for bash, zsh and fish from the tables of the command line: `python install/completion.py PREFIX`."""

from __future__ import annotations

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from cli_words import SIGNALS, Option, options, takes_id

from ociruntime import cli_help, cli_options

PLACES = {
    "bash": "share/bash-completion/completions/ociruntime",
    "zsh": "share/zsh/site-functions/_ociruntime",
    "fish": "share/fish/vendor_completions.d/ociruntime.fish",
}
"""Where each shell looks, below the prefix."""

VERBS = list(cli_help.SUMMARY)


def _values(verb: str) -> str:
    return " ".join(name.lstrip("-") for o in options(verb) if o.placeholder for name in o.names)


def _bash_values() -> list[str]:
    """One case for each set of options whose values are offered in the same way."""
    offers: dict[str, list[str]] = {}
    for verb in ("", *VERBS):
        for option in options(verb):
            if option.choices:
                offer = f'COMPREPLY=($(compgen -W "{" ".join(option.choices)}" -- "$cur"))'
            elif option.values == "directories":
                offer = 'compopt -o filenames 2>/dev/null; COMPREPLY=($(compgen -d -- "$cur"))'
            elif option.values:
                offer = 'compopt -o filenames 2>/dev/null; COMPREPLY=($(compgen -f -- "$cur"))'
            else:
                continue
            keys = offers.setdefault(offer, [])
            keys += [f"{verb}:{name.lstrip('-')}" for name in option.names]
    return [f"    {'|'.join(keys)}) {offer} ;;" for offer, keys in offers.items()]


def bash() -> str:
    """Needs bash alone, not the package bash-completion."""
    tables = []
    for verb in ("", *VERBS):
        names = " ".join(name for option in options(verb) for name in option.names)
        tables.append(f"    '{verb}') names='{names}' values='{_values(verb)}' ;;")
    with_id = "|".join(verb for verb in VERBS if takes_id(verb))
    in_order = "|".join(sorted(cli_options.IN_ORDER))
    lines = r"""# bash completion for ociruntime, made by install/completion.py

_ociruntime_table() { # VERB
    case $1 in
@TABLES@
    esac
}

_ociruntime_value() { # VERB:OPTION
    local IFS=$' \t\n'
    case $1 in
@VALUES@
    esac
}

_ociruntime() {
    local IFS=$' \t\n' words=() args=() root=() word name glue= pending= verb= names values cur
    # An equals sign may be a word of its own (COMP_WORDBREAKS).
    for word in "${COMP_WORDS[@]:0:COMP_CWORD+1}"; do
        if [[ $word == = && ${#words[@]} -gt 0 ]]; then
            words[${#words[@]}-1]+== glue=1
        elif [[ $glue ]]; then
            words[${#words[@]}-1]+=$word glue=
        else
            words+=("$word")
        fi
    done
    cur=${words[${#words[@]}-1]} COMPREPLY=()
    _ociruntime_table ''
    for word in "${words[@]:1:${#words[@]}-2}"; do
        if [[ $pending ]]; then
            [[ $verb$pending == root ]] && root=(--root "$word")
            pending=
            continue
        fi
        case $verb in @IN_ORDER@) [[ ${#args[@]} -gt 0 ]] && return ;; esac
        case $word in
        --root=*) [[ $verb ]] || root=("$word") ;;
        -*=*) ;;
        -*)
            name=${word#-} name=${name#-}
            case " $values " in *" $name "*) pending=$name ;; esac
            ;;
        *)
            if [[ $verb ]]; then
                args+=("$word")
            else
                verb=$word
                _ociruntime_table "$verb"
            fi
            ;;
        esac
    done
    if [[ ! $pending && $cur == --*=* ]]; then
        pending=${cur%%=*} pending=${pending#--} cur=${cur#*=}
    fi
    if [[ $pending ]]; then
        _ociruntime_value "$verb:$pending"
        return
    fi
    case $verb in @IN_ORDER@) [[ ${#args[@]} -gt 0 ]] && return ;; esac
    if [[ $cur == -* ]]; then
        COMPREPLY=($(compgen -W "$names" -- "$cur"))
        return
    fi
    case $verb:${#args[@]} in
    :0 | help:0)
        COMPREPLY=($(compgen -W "@VERBS@ help" -- "$cur"))
        ;;
    kill:1)
        word="@SIGNALS@"
        [[ $cur == SIG* ]] && word="@SIGSIGNALS@"
        COMPREPLY=($(compgen -W "$word" -- "$cur"))
        ;;
    *:0)
        case $verb in
        @WITH_ID@)
            COMPREPLY=($(compgen -W "$("${words[0]}" "${root[@]}" list --quiet 2>/dev/null)" -- "$cur"))
            ;;
        esac
        ;;
    esac
}

complete -o default -F _ociruntime ociruntime
"""
    for mark, text in {
        "@TABLES@": "\n".join(tables),
        "@VALUES@": "\n".join(_bash_values()),
        "@IN_ORDER@": in_order,
        "@VERBS@": " ".join(VERBS),
        "@SIGNALS@": " ".join(SIGNALS),
        "@SIGSIGNALS@": " ".join(f"SIG{name}" for name in SIGNALS),
        "@WITH_ID@": with_id,
    }.items():
        lines = lines.replace(mark, text)
    return lines


def _quote(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def _zsh_option(option: Option) -> str:
    """One specification of _arguments."""
    text = option.text
    for letter in "\\[]:":
        text = text.replace(letter, f"\\{letter}")
    value = ""
    if option.placeholder:
        how = " "
        if option.choices:
            how = f"({' '.join(option.choices)})"
        elif option.values:
            how = "_files -/" if option.values == "directories" else "_files"
        value = f":{option.placeholder.replace(':', chr(92) + ':')}:{how}"
    several = "*" if option.repeatable else ""
    rest = _quote(f"[{text}]{value}")
    long = f"--{option.name}{'=' if option.placeholder else ''}"
    if not option.short:
        return _quote(several + long) + rest
    short = f"-{option.short}{'+' if option.placeholder else ''}"
    # Each name excludes the other, unless it may be repeated.
    before = "'*'" if several else _quote(f"(-{option.short} --{option.name})")
    return f"{before}{{{short},{long}}}{rest}"


def zsh() -> str:
    """An autoloaded function of the name _ociruntime."""
    lines = [
        "#compdef ociruntime",
        "# zsh completion for ociruntime, made by install/completion.py",
        "",
        "_ociruntime_containers() {",
        "    local -a ids",
        '    ids=(${(f)"$($_ociruntime_call list --quiet 2>/dev/null)"})',
        "    compadd -a ids",
        "}",
        "",
        "_ociruntime() {",
        "    local curcontext=$curcontext state line ret=1",
        "    local -a _ociruntime_call=(${(Q)words[1]})",
        "    typeset -A opt_args",
        "    _arguments -C \\",
    ]
    lines += [f"        {_zsh_option(option)} \\" for option in options("")]
    lines += [
        "        '1:verb:->verb' '*::argument:->argument' && return",
        "    [[ -n $opt_args[--root] ]] && _ociruntime_call+=(--root ${(Q)opt_args[--root]})",
        "    case $state in",
        "    verb)",
        "        local -a verbs=(",
    ]
    lines += [f"            {_quote(f'{verb}:{cli_help.SUMMARY[verb]}')}" for verb in VERBS]
    lines += [
        "            'help:print help, also of one verb'",
        "        )",
        "        _describe verb verbs && ret=0",
        "        ;;",
        "    argument)",
        "        curcontext=${curcontext%:*:*}:ociruntime-$words[1]:",
        "        case $words[1] in",
    ]
    for verb in VERBS:
        command = "_arguments -s"
        arguments = []
        if takes_id(verb):
            arguments.append("'1:container:_ociruntime_containers'")
        if verb in cli_options.IN_ORDER:
            command += " -A '-*'"
            arguments.append("'*::command:_normal'" if verb == "exec" else "'*:argument: '")
        if verb == "kill":
            names = " ".join(SIGNALS + [f"SIG{name}" for name in SIGNALS])
            arguments.append(f"'2:signal:({names})'")
        lines.append(f"        {verb})")
        parts = [*map(_zsh_option, options(verb)), *arguments]
        lines.append(f"            {command} \\")
        lines += [f"                {part} \\" for part in parts[:-1]]
        lines += [f"                {parts[-1]} && ret=0", "            ;;"]
    lines += [
        f"        help) _arguments '1:verb:({' '.join(VERBS)})' && ret=0 ;;",
        "        esac",
        "        ;;",
        "    esac",
        "    return ret",
        "}",
        "",
        '_ociruntime "$@"',
    ]
    return "\n".join(lines) + "\n"


def _fish_option(condition: str, option: Option) -> str:
    words = ["complete -c ociruntime", f"-n {_quote(condition)}", f"-l {option.name}"]
    if option.short:
        words.append(f"-s {option.short}")
    if option.choices:
        words.append(f"-x -a {_quote(' '.join(option.choices))}")
    elif option.values == "directories":
        words.append("-x -a '(__fish_complete_directories)'")
    elif option.values:
        words.append("-r -F")
    elif option.placeholder:
        words.append("-x")
    words.append(f"-d {_quote(option.text)}")
    return " ".join(words)


_FISH = r"""# fish completion for ociruntime, made by install/completion.py

# The verb and its arguments so far, one a line, without options and their values.
function __ociruntime_words
    set -l values @VALUES@
    set -l pending
    set -l found
    for word in (commandline -opc)[2..-1]
        if test -n "$pending"
            set pending
            continue
        end
        switch $word
            case '-*=*'
            case '-*'
                set -l name (string replace -r '^--?' '' -- $word)
                contains -- $name $values; and set pending $name
            case '*'
                set -a found $word
                test (count $found) -eq 1; or continue
                set values
                switch $word
@VERBS@
                end
        end
    end
    string join \n -- $found
end

# Whether the verb is $argv[1], with $argv[2] or fewer arguments behind it.
function __ociruntime_verb
    set -l words (__ociruntime_words)
    test "$words[1]" = $argv[1] -a (count $words) -le (math $argv[2] + 1)
end

# Whether argument number $argv[2] of the verb $argv[1] is to come.
function __ociruntime_argument
    set -l words (__ociruntime_words)
    test "$words[1]" = "$argv[1]" -a (count $words) -eq $argv[2]
end

function __ociruntime_containers
    set -l words (commandline -opc)
    set -l root
    for index in (seq 2 (count $words))
        switch $words[$index]
            case '--root=*'
                set root $words[$index]
            case --root -root
                set root --root $words[(math $index + 1)]
        end
    end
    $words[1] $root list --quiet 2>/dev/null
end

complete -c ociruntime -f
"""


def fish() -> str:
    """Completions of fish 3."""
    cases = [
        f"                    case {verb}\n                        set values {_values(verb)}"
        for verb in VERBS
        if _values(verb)
    ]
    head = _FISH.replace("@VALUES@", _values("")).replace("@VERBS@", "\n".join(cases))
    first = "test -z (__ociruntime_words | string collect)"
    lines = [_fish_option(first, option) for option in options("")]
    for verb, text in [*cli_help.SUMMARY.items(), ("help", "print help, also of one verb")]:
        lines.append(f"complete -c ociruntime -n {_quote(first)} -a {verb} -d {_quote(text)}")
    for verb in VERBS:
        # Where the rest belongs to another program, options end with the id.
        most = 0 if verb in cli_options.IN_ORDER else 99
        lines += [
            _fish_option(f"__ociruntime_verb {verb} {most}", option) for option in options(verb)
        ]
        if takes_id(verb):
            lines.append(
                f"complete -c ociruntime -n '__ociruntime_argument {verb} 1' -k"
                " -a '(__ociruntime_containers)' -d container"
            )
    for name in SIGNALS:
        lines.append(
            f"complete -c ociruntime -n '__ociruntime_argument kill 2' -a '{name} SIG{name}' -d signal"
        )
    lines.append(f"complete -c ociruntime -n '__ociruntime_argument help 1' -a '{' '.join(VERBS)}'")
    return head + "\n".join(lines) + "\n"


def write(prefix: str) -> None:
    """Write all three to where the shells look below ``prefix``."""
    for shell, make in (("bash", bash), ("zsh", zsh), ("fish", fish)):
        target = os.path.join(prefix, PLACES[shell])
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with open(target, "w", encoding="utf-8") as file:
            file.write(make())


if __name__ == "__main__":
    write(sys.argv[1])
