"""The build id: which code a worker runs.

What lives here: a fingerprint of the author's modules. What must not: versions
of Perdure itself, which are guarded by logic flags. `worker` asks once, when it
starts; two workers of the same image get the same id.
"""

import hashlib
import sys
import sysconfig
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType


def build_id(functions: Iterable[object]) -> str:
    """Return 12 hex digits over the sources of every loaded module that the author may have written.

    Those are the modules of the packages that hold ``functions``, and all
    modules that were not installed with Python or into its ``site-packages``.
    """
    packages = {str(getattr(function, "__module__", "")).partition(".")[0] for function in functions}
    packages.discard("perdure")
    installed = {Path(path).resolve() for path in sysconfig.get_paths().values()}
    installed.add(Path(__file__).resolve().parent.parent)
    digest = hashlib.sha256()
    for name, module in sorted(sys.modules.items()):
        source = _source(module)
        if source is None:
            continue
        foreign = any(parent in installed for parent in source.parents)
        if name.partition(".")[0] in packages or not foreign:
            digest.update(name.encode())
            digest.update(source.read_bytes())
    return digest.hexdigest()[:12]


def _source(module: ModuleType | None) -> Path | None:
    file = getattr(module, "__file__", None)
    if not isinstance(file, str) or not file.endswith(".py"):
        return None
    path = Path(file).resolve()
    return path if path.is_file() else None
