"""The operator's import graph holds no torch, and the repository does not shadow the standard library."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
IMPORT_EVERYTHING = """
import importlib, json, pkgutil, sys, tandem
for module in pkgutil.walk_packages(tandem.__path__, "tandem."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
print(json.dumps(sorted({name.split(".")[0] for name in sys.modules})))
"""


def test_importing_every_operator_module_never_imports_torch():
    done = subprocess.run([sys.executable, "-c", IMPORT_EVERYTHING], capture_output=True, text=True, check=True)
    loaded = set(json.loads(done.stdout))

    assert "tandem" in loaded
    assert not loaded & {"torch", "transformers", "tandem_serve"}


def test_the_operator_folder_does_not_shadow_the_standard_library():
    assert not (ROOT / "operator" / "__init__.py").exists()
