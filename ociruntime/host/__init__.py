"""The parent's side effects: everything that touches the host and never a container's file system.

Who uses what (all hot; errors are ``ociruntime.errors.Error``; descriptors are close-on-exec):

normalize
    ``start(preserve_fds=0) -> int``: once per process, before anything is opened: stdio 0-2 exist, other descriptors
    are closed, signals reset, umask 022; how many descriptors from 3 on the container gets (LISTEN_FDS + preserve_fds).
    ``caller_umask: int``, ``listen_fds: int`` are set by it. ``environ(name) -> str | None``: empty counts as unset.
probe
    ``gather(spec, bundle, *, process=None, no_pivot=False) -> Facts``; no privilege needed.
prepare
    ``open_descriptors(plan, *, gate=-1, pidfd=-1) -> list[int]``: for plan.fds[2:], the caller closes them;
    ``gate`` and ``pidfd`` are duplicated. ``close_all(fds)``.
launch
    ``launch(plan, encoded, fds, *, preserve_fds=0, cgroup_fd=-1, join_fds=(), stdio=None) -> Init``.
    ``Init``: ``pid``, ``pidfd``, ``channel``;
    ``serve(handlers, *, on_console=None, on_listener=None) -> "ready" | "exec" | "done"``: ``handlers[tag](init)``
    per SYNC; the callbacks own the descriptor they get; every failure kills and reaps init before it is raised.
    ``wait(timeout=None) -> int | None``: raw wait status; ``kill_and_reap()``; ``close()``: forgets the process.
idmap
    ``write_maps(pid, uid_mappings, gid_mappings, *, privileged, pointer="/linux")``;
    ``userns_fd(uid_mappings, gid_mappings) -> int``.
hooks
    ``run(kind, hooks, state, *, cwd, preserve_fds=0, keep_going=False)``: prestart createRuntime poststart poststop;
    ``state``: the state JSON as bytes; ``keep_going``: failures are warnings (poststop).
    ``run_inside(kind, hooks, state, compile_one, handlers=None)``: createContainer startContainer;
    ``compile_one(hook) -> (plan, encoded, fds)``.
console
    ``check(terminal, console_socket, detach)``; ``connect(path) -> int``; ``send(socket, master)``: closes both.
seccomp
    ``filter_for(profile, root) -> Filter`` (``code: bytes``, ``flags: int``, ``listener: bool``, ``key: str``); cached.
    ``send_listener(path, metadata, state, pid, fd)``: closes fd.
resctrl
    linux.intelRdt: ``decide(rdt, id) -> Group``, ``from_state(recorded) -> Group``; ``Group``: ``to_state()``,
    ``create(rdt)``, ``write(rdt)``, ``assign(pids)``, ``delete()``.
procfs
    ``root() -> int``: verified O_PATH descriptor; ``open_pid(pid) -> int``; ``read_file(path) -> bytes``;
    ``read_record(path) -> bytes``; ``write(dirfd, name, data)``.
unixsock
    ``connect(path, kind) -> int``, ``listen(dirfd, name, kind) -> int``: any path length; ``send(fd, data, fds=())``.
notify
    sd_notify, from the container to NOTIFY_SOCKET: ``prepare(state_dir)``, ``listen(state_fd) -> int``,
    ``wait_ready(fd, pidfd, caller, pid) -> bool``, ``take(fd, caller, pid) -> bool``.
netdev
    ``move(devices, netns_fd)``: linux.netDevices.
"""
