"""Attacks on OCI runtimes: one recipe for each class of published advisory, played on any runtime."""
