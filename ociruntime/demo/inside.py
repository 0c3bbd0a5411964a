"""What the demo's container runs: a shell script that says what it sees, one ``name TAB value`` a line.

It leans on nothing but a POSIX shell, coreutils and util-linux, which every Debian has.
"""

SCRIPT = r"""#!/bin/sh
# Started by `python -m ociruntime.demo`; play with it: sh /demo.sh
say() { printf '%s\t%s\n' "$1" "$2"; }

# try NAME COMMAND...: the last line of what the command complained about, or its output
try() {
    name=$1
    shift
    if answer=$("$@" 2>&1); then
        say "$name" "${answer:-works}"
    else
        say "$name" "$(printf '%s' "$answer" | tail -n 1 | sed 's/.*: //')"
    fi
}

say hostname "$(cat /proc/sys/kernel/hostname)"
count=0
for process in /proc/[0-9]*; do count=$((count + 1)); done
say processes "$count"
say pid "$(cat /proc/$$/comm), with pid $$"
say user "$(id -un) (uid $(id -u))"
read -r _ outside _ </proc/self/uid_map
say outside-uid "$outside"
say network "$(sed -n 's/^ *\([^ :]*\):.*/\1/p' /proc/net/dev | sort | tr '\n' ' ')"
say uptime "$(cut -d. -f1 /proc/uptime)"
say cgroup "$(sed -n 's/.*:.*:\(.*\)/\1/p' /proc/self/cgroup | sort -u | head -n 1)"
say capabilities "$(sed -n 's/^CapEff:\t*//p' /proc/self/status)"
say home "$(ls -A /home /root 2>/dev/null | wc -l)"
say files "$(ls -A / | tr '\n' ' ')"

try write-usr touch /usr/demo
try write-root touch /demo
try write-tmp sh -c 'echo works >/tmp/demo && cat /tmp/demo'
try new-namespace unshare --user true
try set-hostname sh -c 'echo intruder >/proc/sys/kernel/hostname'
say kernel-memory "$(head -c 1 /proc/kcore 2>/dev/null | wc -c)"

if [ "$1" = limits ]; then
    { head -c 200000000 /dev/zero | tail -c 200000000 >/dev/null; } 2>/dev/null
    say memory "$?"
    echo 0 >/tmp/started
    (
        started=0
        while [ "$started" -lt 100 ]; do
            sleep 60 &
            started=$((started + 1))
            echo "$started" >/tmp/started
        done
    ) 2>/dev/null
    read -r started </tmp/started
    say pids "$started"
    kill -9 -1 2>/dev/null
fi
say end ok
"""
