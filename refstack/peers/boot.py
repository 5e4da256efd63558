"""Run child.py in another Python, where refstack is not installed and nothing of this one's packages may be found.

    PYTHON -I boot.py

refstack's folder is not put on the path: other versions of the peer's own libraries may lie beside it. The package is
loaded from there by name.
"""

import importlib.util
import sys
from pathlib import Path


def main() -> None:
    """Make `refstack` importable, then serve."""
    home = Path(__file__).resolve().parent.parent
    spec = importlib.util.spec_from_file_location("refstack", home / "__init__.py")
    assert spec is not None and spec.loader is not None
    package = sys.modules["refstack"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(package)
    from refstack.peers import child

    child.main()


if __name__ == "__main__":
    main()
