"""Checkpoint and restore through CRIU's RPC. Cold package: only `checkpoint` and `restore` import it.

wire: the few protobuf messages; service: one `criu swrk` process and its conversation; options: what CRIU is told
about a container; dump and restore: the two verbs.
"""
