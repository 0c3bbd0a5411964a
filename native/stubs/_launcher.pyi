"""Built into the launcher alone (native/launcher.c)."""

variant: str
package_dir: str
site_dirs: list[str]
extensions: list[tuple[str, str]]
ext_suffix: str

def exec_full() -> None: ...
