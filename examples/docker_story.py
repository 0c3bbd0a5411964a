#!/usr/bin/env python3
"""The whole story that people know from Docker, on one machine, step by step, with ociruntime below the engine.

    sudo examples/docker_story.py [--engine docker|podman] [--runtime ociruntime|runc|crun|PATH]

A registry, an image of several layers, overlayfs, networks, shared memory, namespaces and limits.  Each step prints
what is done, the command, what is seen, and what that proves (✓); the first claim that does not hold ends the story
with status 1.  All of it happens in a world of its own (own data directories, pid, mount and network namespaces),
which is gone at the end; nothing is downloaded but missing Debian packages.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

from examples.story_kit import ENGINES, REGISTRY, Broken, Engine, Story
from tests.engines.world import World

PACKAGES = [
    "busybox-static",
    "docker-registry",
    "gcc",
    "iproute2",
    "iptables",
    "jq",
    "libc6-dev",
    "tini",
]
IMAGE = f"{REGISTRY}/story/web:1"
LAYERS = "image inspect --format '{{range .RootFS.Layers}}{{println .}}{{end}}' " + IMAGE
KINDS = ("cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts")
DAY = 86400

# Writes a text into System V shared memory, or reads it.
SHM = r"""
#include <stdio.h>
#include <sys/shm.h>

int main(int argc, char **argv) {
    int id = shmget(0x5707, 4096, argc > 1 ? IPC_CREAT | 0600 : 0);
    char *text = id < 0 ? (char *)-1 : shmat(id, NULL, 0);

    if (text == (char *)-1) {
        perror("shm");
        return 1;
    }
    if (argc > 1)
        snprintf(text, 4096, "%s", argv[1]);
    return puts(text) < 0;
}
"""
DOCKERFILE = """
FROM scratch
COPY rootfs /
RUN mkdir /www && echo "made while the image was built" >/www/built
COPY index.html /www/
ENV PATH=/bin
CMD ["httpd", "-f", "-h", "/www"]
"""
# What two busy loops used in two seconds, in ns, on cgroup v1 or v2.
BURN = """
usage() {
    cat /sys/fs/cgroup/cpuacct/cpuacct.usage 2>/dev/null || awk '/usage_usec/ {print $2 * 1000}' /sys/fs/cgroup/cpu.stat
}
cut -d' ' -f1 /proc/uptime && usage
timeout 2 sh -c '(while :; do :; done) & while :; do :; done' 2>/dev/null
usage && cut -d' ' -f1 /proc/uptime
cat /sys/fs/cgroup/cpu/cpu.stat /sys/fs/cgroup/cpu.stat 2>/dev/null | grep nr_throttled
""".lstrip()
# No engine asks for a time namespace, so this stands in the runtime's place and adds one to config.json.
WITH_TIME = """#!/bin/sh
previous=
for word; do
    case $previous in -b | --bundle) bundle=$word ;; esac
    previous=$word
done
case " $* " in *" create "*)
    jq '.linux.namespaces += [{"type": "time"}]
        | .linux.timeOffsets = {"boottime": {"secs": %d}, "monotonic": {"secs": %d}}' \\
        "$bundle/config.json" >"$bundle/timed.json" && mv "$bundle/timed.json" "$bundle/config.json" ;;
esac
exec %s "$@"
"""


def engine_and_registry(story: Story) -> None:
    name = story.engine.command
    story.chapter("1. The engine", f"{name} with {story.engine.runtime} as its runtime.")
    story.engine.start(story)
    story.chapter(
        "2. A registry", f"Debian's docker-registry on {REGISTRY}, the loopback of this world."
    )
    config = {
        "version": 0.1,
        "log": {"level": "warn", "accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": "/run/registry"}},
        "http": {"addr": REGISTRY},
    }
    story.world.path("/run/registry.yml").write_text(json.dumps(config))
    print("   $ docker-registry serve /run/registry.yml &")
    catalog = f"busybox wget -q -O - http://{REGISTRY}/v2/_catalog"
    story.world.daemon(
        *("docker-registry", "serve", "/run/registry.yml"),
        log="/run/registry.log",
        ready=lambda: story.world.call("sh", "-c", catalog).code == 0,
        env=story.env,
    )
    story.claim("the registry answers, and is empty", '"repositories":[]' in story.run(catalog))


def image(story: Story) -> None:
    e = story.engine.command
    story.chapter(
        "3. An image of several layers",
        "Made of this machine's busybox and a small C program: nothing is downloaded.",
    )
    context = story.world.path("/run/context")
    for directory in ("bin", "dev", "etc", "proc", "sys", "tmp"):
        (context / "rootfs" / directory).mkdir(parents=True)
    (context / "shm.c").write_text(SHM)
    (context / "Dockerfile").write_text(DOCKERFILE.lstrip())
    (context / "index.html").write_text("hello from a container\n")
    story.run(
        "cd /run/context/rootfs/bin && for name in $(busybox --list); do ln -s busybox $name; done"
        " && cp --remove-destination /bin/busybox busybox"
    )
    story.run("cd /run/context && cc -static -Os -o rootfs/bin/shm shm.c && cat Dockerfile")
    story.run(f"{e} build --tag {IMAGE} /run/context")
    layers = story.run(f"{e} {LAYERS}").split()
    story.claim(f"the image has {len(layers)} layers", len(layers) == 3)

    story.chapter(
        "4. Push and pull", "The image goes to the registry, is forgotten here, and comes back."
    )
    story.run(f"{e} push {IMAGE}")
    kinds = "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json"
    fetch = f"busybox wget -q -O - --header 'Accept: {kinds}' http://{REGISTRY}/v2/story/web/manifests/1"
    there = [layer["digest"] for layer in json.loads(story.look(fetch))["layers"]]
    print(
        "   the registry's manifest:\n" + "".join(f"       {digest}\n" for digest in there), end=""
    )
    story.claim("the registry has as many layers", len(there) == len(layers))
    story.run(f"{e} rmi --force {IMAGE}", quiet=True)
    story.run(f"{e} image inspect {IMAGE}", fails=True)
    story.run(f"{e} pull {IMAGE}")
    story.claim(
        "what came back has the very same layers", story.look(f"{e} {LAYERS}").split() == layers
    )


def layers(story: Story) -> None:
    e, flags = story.engine.command, story.engine.flags(story)
    story.chapter(
        "5. Shared layers, own changes",
        "Two containers of the image: overlayfs stacks their own upper layer on the same read-only lower ones.",
    )
    for name in ("one", "two"):
        story.run(f"{e} run --detach --name {name} {flags} {IMAGE}", quiet=True)
    dirs = {}
    for name in ("one", "two"):
        dirs[name] = data = story.inspect(name)["GraphDriver"]["Data"]
        print(
            f"   {name}: upperdir {short(data['UpperDir'])}\n        lowerdir {short(data['LowerDir'])}"
        )
    # docker puts a layer of the container's own (hostname, hosts, resolv.conf) on top of the image's.
    lower = {
        n: [p for p in d["LowerDir"].split(":") if not p.removesuffix("/diff").endswith("-init")]
        for n, d in dirs.items()
    }
    story.claim(
        f"the {len(lower['one'])} lower layers of both are the same folders",
        lower["one"] == lower["two"] and len(lower["one"]) == 3,
    )
    story.claim("the upper ones are not", dirs["one"]["UpperDir"] != dirs["two"]["UpperDir"])
    story.run(
        f"{e} exec one sh -c 'grep \" / \" /proc/mounts; echo mine >/www/only-in-one; rm /www/built'"
    )
    story.run(f"{e} diff one")
    story.run(f"find {dirs['one']['UpperDir']}/www -exec stat -c '%F  %n' {{}} +")
    upper = Path(dirs["one"]["UpperDir"])
    story.claim(
        "the new file lies in the upper layer of the first",
        story.world.path(str(upper / "www/only-in-one")).read_text() == "mine\n",
    )
    story.claim(
        "there a whiteout hides the removed one",
        story.world.path(str(upper / "www/built")).is_char_device(),
    )
    seen = story.run(f"{e} exec two ls /www").split()
    story.claim("the second sees the image as it was", seen == ["built", "index.html"])
    kept = [p for p in lower["one"] if story.world.path(f"{p}/www/built").exists()]
    story.claim("and so do the lower layers", len(kept) == 1)


def short(paths: str) -> str:
    """Long names of layers, cut."""
    return re.sub(r"([0-9a-f]{12})[0-9a-f]{52}", r"\1…", paths)


def networks(story: Story) -> None:
    e, flags = story.engine.command, story.engine.flags(story)
    story.chapter(
        "6. A bridge and a published port", "The engine's host is this world's network namespace."
    )
    story.run(f"{e} run --detach --name web --publish 8080:80 {flags} {IMAGE}", quiet=True)
    story.run("ip -4 -brief address")
    fetch = "busybox wget -q -O - http://127.0.0.1:8080/"
    story.wait_for(fetch)
    story.claim(
        "the host reaches the container by the published port",
        story.run(fetch) == "hello from a container",
    )
    story.run(f"{e} exec web sh -c 'ip -4 address show eth0; ip route'")

    story.chapter(
        "7. A private network", "Two containers on a network without a way out, and one beside it."
    )
    story.run(f"{e} network create --internal inner", quiet=True)
    story.run(f"{e} run --detach --name server --network inner {flags} {IMAGE}", quiet=True)
    # Not busybox's wget: a static program needs libraries of the C library for it.
    story.world.path("/run/fetch.sh").write_text(
        "address=$(nslookup server | awk '/^Address/ {found = $NF} END {print found}')\n"
        'echo "server is $address" && printf "GET / HTTP/1.0\\r\\n\\r\\n" | nc -w 5 $address 80\n'
    )
    story.run("cat /run/fetch.sh")
    client = f"{e} run --rm --interactive --network inner {flags} {IMAGE} sh </run/fetch.sh"
    text = story.run(client)
    story.claim("they talk, and know each other by name", text.endswith("hello from a container"))
    networks = story.inspect("server")["NetworkSettings"]["Networks"]
    address = networks["inner"]["IPAddress"]
    text = story.run(f"{e} run --rm {flags} {IMAGE} nc -w 2 {address} 80", fails=True)
    story.claim(
        "who is on another network does not reach them", "timed out" in text or "unreach" in text
    )


def shared_memory(story: Story) -> None:
    e, flags = story.engine.command, story.engine.flags(story)
    story.chapter(
        "8. Shared memory, on purpose",
        "One container writes System V and POSIX shared memory; a second joins its IPC namespace, a third does not.",
    )
    write = 'shm "a word in System V memory" && echo "a word in /dev/shm" >/dev/shm/word && exec httpd -f'
    story.run(
        f"{e} run --detach --name writer --ipc shareable {flags} {IMAGE} sh -c '{write}'",
        quiet=True,
    )
    story.wait_for(f"{e} exec writer cat /dev/shm/word")
    read = "sh -c 'readlink /proc/self/ns/ipc; shm; cat /dev/shm/word'"
    joined = story.engine.joined("writer") or flags
    text = story.run(f"{e} run --rm --ipc container:writer {joined} {IMAGE} {read}")
    story.claim(
        "the second reads both",
        "a word in System V memory" in text and "a word in /dev/shm" in text,
    )
    text = story.run(f"{e} run --rm {flags} {IMAGE} {read}", fails=True)
    story.claim("the third sees neither", text.count("No such file or directory") == 2)


def namespaces(story: Story) -> None:
    e, flags = story.engine.command, story.engine.flags(story)
    story.chapter(
        "9. Namespaces",
        "What each container has of its own: the inode of a namespace is its identity. Cgroup, IPC, mount, network,"
        f" pid, user and UTS namespaces are what {e} asks for here. No engine asks for a time namespace: the container"
        " `three` is started by a script that stands in the runtime's place, adds one to config.json, and executes"
        " the runtime.",
    )
    start = f"{e} run"
    if story.engine.time_namespaces:
        story.run("cat /run/bin/with-time")
        start = story.engine.with_time()
    story.run(f"{start} --detach --name three {flags} {IMAGE}", quiet=True)
    names = ("one", "two", "three")
    pids = {"host": "self"} | {name: str(story.inspect(name)["State"]["Pid"]) for name in names}
    print("   $ readlink /proc/PID/ns/*\n       " + "".join(f"{word:12}" for word in ("", *pids)))
    table = {}
    for kind in KINDS:
        links = [story.look(f"readlink /proc/{pid}/ns/{kind}") for pid in pids.values()]
        table[kind] = [re.sub(r"\D", "", link) for link in links]
        print("       " + "".join(f"{word:12}" for word in (kind, *table[kind])))
    for kind in KINDS:
        if kind != "time":
            story.claim(f"{kind}: each container has its own", len(set(table[kind])) == len(pids))
    story.run(f"{e} exec one cat /proc/self/uid_map")
    if not story.engine.time_namespaces:
        print("   (this runtime's features name no time namespace: that is left out)")
        return
    host, one, two, three = table["time"]
    story.claim("time: the third has its own, the others the host's", host == one == two != three)
    here = float(story.run("cat /proc/uptime").split()[0])
    clocks = f"{e} exec three cat /proc/uptime /proc/self/timens_offsets"
    there = float(story.run(clocks).split()[0])
    story.claim("the third was started a day ago, by its own clock", 0 <= there - here - DAY < 60)


def limits(story: Story) -> None:
    e, flags = story.engine.command, story.engine.flags(story)
    story.chapter(
        "10. Cgroups and limits",
        "Each container has a cgroup of its own, and what it wants beyond its limit it does not get.",
    )
    groups = {}
    for name in ("one", "two"):
        pid = story.inspect(name)["State"]["Pid"]
        groups[name] = story.run(f"grep -E ':memory:|^0::' /proc/{pid}/cgroup | head -1")
    story.claim("the cgroups are two", groups["one"] != groups["two"])

    greedy = f"--name greedy --memory 32m --memory-swap 32m {flags} {IMAGE} tail -c 200m /dev/zero"
    story.run(f"{e} run {greedy}", fails=True)
    state = story.inspect("greedy")["State"]
    seen = {key: state[key] for key in ("Status", "ExitCode", "OOMKilled")}
    print(f"       {json.dumps(seen)}")
    story.claim("memory: the kernel killed it", state["ExitCode"] == 137)
    if story.engine.sees_oom:
        story.claim("and the engine knows why: OOMKilled", state["OOMKilled"] is True)

    forks = "for i in 1 2 3 4 5 6 7 8 9; do sleep 1 & done; echo all"
    text = story.run(f"{e} run --rm --pids-limit 6 {flags} {IMAGE} sh -c '{forks}'", fails=True)
    story.claim("pids: the sixth process was the last", "can't fork" in text and "all" not in text)

    story.world.path("/run/burn.sh").write_text(BURN)
    story.run("cat /run/burn.sh")
    text = story.run(f"{e} run --rm --interactive --cpus 0.1 {flags} {IMAGE} sh </run/burn.sh")
    before, used_before, used_after, after, _, throttled = text.split()[:6]
    share = (int(used_after) - int(used_before)) / 1e9 / (float(after) - float(before))
    story.claim(
        f"cpu: wanted all, got {share:.2f} of the 0.10 of one that it may have, was throttled {throttled} times",
        share < 0.15 and int(throttled) > 0,
    )


def cleanup(story: Story) -> None:
    story.chapter(
        "11. The end",
        "The containers are removed, then the world with its daemons, networks and files.",
    )
    story.run(story.engine.remove_all, quiet=True)
    left = [path for path in story.world.groups() if path.name != "conmon"]
    story.claim("no cgroup of a container is left", not left)
    commands = story.world.processes().values()
    story.claim("nor a process", not [text for text in commands if text.startswith("httpd")])


def pid_namespaces(top: int) -> set[str]:
    """The pid namespaces of a process's descendants."""
    found, todo = set(), [top]
    while todo:
        pid = todo.pop()
        try:
            todo += map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
            found.add(os.readlink(f"/proc/{pid}/ns/pid"))
        except OSError:
            continue  # it is gone
    return found - {os.readlink("/proc/self/ns/pid")}


def host_state() -> tuple[list[str], set[str]]:
    """Mounts and network interfaces of the machine, as this process sees them."""
    return Path("/proc/self/mountinfo").read_text().splitlines(), set(os.listdir("/sys/class/net"))


def members(namespaces: set[str]) -> list[str]:
    """Processes of these pid namespaces."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if os.readlink(entry / "ns/pid") in namespaces:
                    found.append(entry.name)
            except OSError:
                continue
    return found


STEPS: list[Callable[[Story], None]] = [
    engine_and_registry,
    image,
    layers,
    networks,
    shared_memory,
    namespaces,
    limits,
    cleanup,
]


def tell(engine: Engine, runtime: Path) -> int:
    """The story from the first step to the last; the number of claims that held.  Raises Broken."""
    before = host_state()
    hybrid = runtime.name != "crun"  # crun wants a machine with cgroup v1 alone, or v2
    world = World(f"story{os.getpid()}", runtime, hybrid)
    try:
        engine.runtime = str(world.runtime)
        story = Story(world, engine)
        script = world.path("/run/bin/with-time")
        script.write_text(WITH_TIME % (DAY, DAY, world.runtime))
        script.chmod(0o755)
        for step in STEPS:
            step(story)
        inside = pid_namespaces(world.holder.pid)
    finally:
        world.close()
    story.claim("with the world all is gone: mounts, interfaces,", host_state() == before)
    story.claim("processes,", not members(inside))
    story.claim("cgroups", not world.groups())
    return story.claims


def parse(arguments: list[str]) -> argparse.Namespace:
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engine", choices=ENGINES, default="docker")
    parser.add_argument("--runtime", default="ociruntime", help="ociruntime, runc, crun or a path")
    return parser.parse_args(arguments)


def find_runtime(name: str) -> Path:
    """The runtime's file; ours is built when it is not there.  Raises Broken when there is none."""
    if name == "ociruntime":
        built = REPOSITORY / ".venv/bin/ociruntime"
        if not built.exists():
            subprocess.run(["make", "-s", "-C", REPOSITORY, "venv"], check=True)
        return built
    found = shutil.which(name)
    if found is None:
        raise Broken(f"no such runtime: {name}")
    return Path(found).resolve()


def main(arguments: list[str]) -> int:
    chosen = parse(arguments)
    if os.geteuid() != 0:
        print("the story needs root: it makes namespaces, networks and cgroups", file=sys.stderr)
        return 1
    packages = [*PACKAGES, *ENGINES[chosen.engine].packages]
    subprocess.run([REPOSITORY / ".ci/apt-install", *packages], check=True)
    try:
        runtime = find_runtime(chosen.runtime)
        engine = ENGINES[chosen.engine](runtime)
        claims = tell(engine, runtime)
    except Broken as error:
        print(f"\nthe story broke off: {error}", file=sys.stderr)
        return 1
    print(f"\nall {claims} claims held, with {chosen.engine} and {runtime.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
