"""`import torchvision` works, whatever state its compiled ops are in."""

from __future__ import annotations

import subprocess
import sys

import pytest


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=240
    )


@pytest.fixture(scope="module")
def plain() -> subprocess.CompletedProcess[str]:
    """A first import, and what it leaves: are the ops there, do networks run."""
    return python(
        "import sys, ghostify\n"
        "assert 'torch' not in sys.modules\n"
        "import torchvision, torch\n"
        "assert not any(type(f).__name__ == '_Guard' for f in sys.meta_path)\n"
        "net = torchvision.models.resnet18().eval()\n"
        "assert net(torch.zeros(1, 3, 32, 32)).shape == (1, 1000)\n"
        "print(torch.ops.torchvision.nms.default)\n"
        "print(hasattr(torchvision, 'extension') and torchvision.extension._has_ops())\n"
    )


def test_torchvision_is_imported_and_its_networks_run(plain):
    assert plain.returncode == 0, plain.stderr
    assert "torchvision.nms.default" in plain.stdout


def test_a_torchvision_that_does_not_match_is_said_in_one_warning(plain):
    lines = plain.stderr.strip().splitlines()
    if plain.stdout.split()[-1] == "True":
        assert lines == []
    else:
        assert len(lines) == 1 and "compiled ops don't load with torch" in lines[0]
        assert lines[0].startswith("<string>:3: GhostifyWarning"), "the line that imports it"
        assert "install the torchvision that matches" in lines[0]


# A torchvision in miniature: its import needs the schema of nms, as the real one's does.
MINIATURE = """
import sys, types, warnings, pathlib, tempfile
folder = pathlib.Path(tempfile.mkdtemp())
package = folder / "torchvision"
package.mkdir()
(package / "__init__.py").write_text(
    "import torch\\nfound = torch.ops.torchvision.nms.default\\n"
)
meta = folder / "torchvision-9.9.dist-info"
meta.mkdir()
(meta / "METADATA").write_text("Metadata-Version: 2.1\\nName: torchvision\\nVersion: 9.9\\n")
sys.path.insert(0, str(folder))
import ghostify
"""


def test_the_schemas_are_defined_where_the_ops_are_missing():
    done = python(MINIATURE + "import torchvision; print(torchvision.found)")
    assert done.returncode == 0, done.stderr
    assert "torchvision.nms.default" in done.stdout
    assert "torchvision 9.9's compiled ops don't load" in done.stderr


def test_without_the_guard_that_import_would_fail():
    done = python(
        MINIATURE
        + "sys.meta_path[:] = [f for f in sys.meta_path if type(f).__name__ != '_Guard']\n"
        "import torchvision"
    )
    assert done.returncode != 0 and "nms" in done.stderr


def test_ops_that_are_there_are_left_alone():
    done = python(
        MINIATURE + "import torch\n"
        "library = torch.library.Library('torchvision', 'DEF')\n"
        "library.define('nms(Tensor a, Tensor b) -> Tensor')\n"
        "import torchvision\n"
        "print(len(torchvision.found._schema.arguments))"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "2" and done.stderr == ""


def test_a_torchvision_that_was_imported_before_is_left_alone():
    done = python(
        "import sys, types\n"
        "sys.modules['torchvision'] = types.ModuleType('torchvision')\n"
        "import ghostify\n"
        "assert not any(type(f).__name__ == '_Guard' for f in sys.meta_path)\n"
    )
    assert done.returncode == 0, done.stderr


def test_a_missing_torchvision_fails_as_python_says_it():
    done = python(
        "import sys, ghostify\n"
        "sys.path[:] = [p for p in sys.path if 'site-packages' not in p]\n"
        "import torchvision\n"
    )
    assert "ModuleNotFoundError: No module named 'torchvision'" in done.stderr
