"""Built into the launcher alone (native/launcher.c)."""

from types import ModuleType

variant: str
package_dir: str
site_dirs: list[str]
ext_suffix: str

def exec_full() -> None: ...
def load_extension(name: str, path: str, /) -> ModuleType: ...
