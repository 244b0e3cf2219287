"""`import torchvision` works, whatever state its compiled ops are in."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import ghostify

pytestmark = pytest.mark.smoke
SOURCE = str(Path(ghostify.__file__).resolve().parents[1])

# torchvision in miniature. Its own library is the file `extension`; two registrations need it.
INIT = """
import sys
sys.runs = getattr(sys, "runs", 0) + 1
if sys.runs == 1:
    left_by_the_first_run = True
__version__ = "9.9"
from torchvision import extension, _registrations, models, ops
"""
REGISTRATION = """
@torch.library.register_fake("torchvision::{0}")
def {0}(boxes, scores, threshold):
    return boxes.new_empty(0)
"""
# As torchvision's own library does it in C++: a second definition ends the process.
DEFINE = """
import os, torch
library = torch.library.Library("torchvision", "DEF")
try:
    for name in ("nms", "qnms"):
        library.define(name + "(Tensor boxes, Tensor scores, float threshold) -> Tensor")
except RuntimeError:
    os.abort()
"""


@pytest.fixture
def python(tmp_path):
    """Run code in a process of its own, which imports from this folder first."""
    (tmp_path / "torchvision").mkdir()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), SOURCE])}

    def run(code: str, **files: str) -> subprocess.CompletedProcess[str]:
        for name, text in files.items():
            (tmp_path / "torchvision" / f"{name}.py").write_text(text, encoding="utf-8")
        command = [sys.executable, "-c", code]
        return subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=240, env=environment
        )

    return run


def miniature(**files: str) -> dict[str, str]:
    """A torchvision whose library does not load, or one with other files in place of its own."""
    models = "def resnet50():\n    return 'a resnet50'\n"
    asked = registrations("nms", "qnms")
    whole = {"__init__": INIT, "extension": "", "_registrations": asked, "models": models}
    return {**whole, "ops": "", **files}


def registrations(*names: str) -> str:
    """A file that registers fakes for these operators, in this order."""
    return "import torch\n" + "".join(REGISTRATION.format(name) for name in names)


@pytest.fixture(scope="module")
def real() -> subprocess.CompletedProcess[str]:
    """The first import of the torchvision that is installed: are its ops there, do networks run."""
    code = (
        "import sys, ghostify\n"
        "assert 'torch' not in sys.modules\n"
        "import torchvision, torch\n"
        "assert not any(type(f).__name__ == '_Guard' for f in sys.meta_path)\n"
        "net = torchvision.models.resnet18().eval()\n"
        "assert net(torch.zeros(1, 3, 32, 32)).shape == (1, 1000)\n"
        "ops = torchvision.extension._has_ops()\n"
        "assert ops == hasattr(torch.ops.torchvision, 'nms')\n"
        "boxes = torch.tensor([[0., 0., 9., 9.], [0., 0., 9., 8.], [20., 20., 29., 29.]])\n"
        "if ops:\n"
        "    kept = torchvision.ops.nms(boxes, torch.tensor([0.9, 0.8, 0.7]), 0.5)\n"
        "    assert kept.tolist() == [0, 2]\n"
        "print(ops)\n"
    )
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)


def test_the_installed_torchvision_is_imported_and_its_networks_run(real):
    assert real.returncode == 0, real.stderr
    assert real.stdout.strip() in ("True", "False")


def test_a_warning_is_given_where_ops_do_not_load_and_only_there(real):
    if real.stdout.strip() == "True":
        assert real.stderr == ""
    else:
        assert real.stderr.count("Warning") == 1
        assert real.stderr.startswith("<string>:3: GhostifyWarning: torchvision")


@pytest.mark.parametrize(
    "imports",
    [
        "import ghostify, torchvision",
        "import ghostify\nimport torchvision.ops",
        "import ghostify\nfrom torchvision.models import resnet50\nimport torchvision",
        "try:\n    import torchvision\nexcept RuntimeError:\n    sys.runs = 0\n"
        "import ghostify, torchvision",
    ],
    ids=["one line", "submodule first", "from submodule", "after a failed import"],
)
def test_a_torchvision_without_its_ops_is_imported_at_the_second_try(python, imports):
    done = python(
        f"import sys\n{imports}\n"
        "assert sys.runs == 2\n"
        "assert not hasattr(torchvision, 'left_by_the_first_run')\n"
        "for name in ('extension', '_registrations', 'models', 'ops'):\n"
        "    assert getattr(torchvision, name) is sys.modules['torchvision.' + name]\n"
        "assert type(torchvision.__loader__).__name__ == 'SourceFileLoader'\n"
        "assert torchvision.__spec__.loader is torchvision.__loader__\n"
        "assert not any(type(f).__name__ == '_Guard' for f in sys.meta_path)\n"
        "print(torchvision.models.resnet50())",
        **miniature(),
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "a resnet50"
    line = 2 + imports.count("\n") - imports.endswith("\nimport torchvision")
    assert done.stderr.startswith(f"<string>:{line}: GhostifyWarning")
    assert done.stderr.count("Warning") == 1
    assert "torchvision 9.9's compiled ops don't load with torch" in done.stderr
    assert "install the torchvision that matches this torch" in done.stderr


def test_what_the_import_itself_defines_is_defined_once(python):
    code = "import sys, ghostify, torchvision, torch\nprint(sys.runs, torch.ops.torchvision.nms)"
    done = python(code, **miniature(extension=DEFINE))
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "1 torchvision.nms" and done.stderr == ""


def test_nothing_is_left_that_a_later_library_could_define(python):
    code = (
        "import ghostify, torchvision, torch\n"
        "assert not hasattr(torch.ops.torchvision, 'nms')\n"
        "import later\n"
        "print(torch.ops.torchvision.nms.default._schema)"
    )
    done = python(code.replace("later", "torchvision.later"), **miniature(later=DEFINE))
    assert done.returncode == 0, done.stderr
    assert "Tensor boxes, Tensor scores, float threshold" in done.stdout


def test_operators_that_are_there_are_not_declared_again(python):
    # Half of a library loads; loading it a second time does nothing. The other half is asked for
    # first: torch 2.6 refuses to register a fake for the same operator a second time.
    half = (
        "import sys\nif sys.runs == 1:\n    import torchvision.half as half\n    sys.kept = half\n"
    )
    code = "import ghostify, torchvision, torch\nprint(torch.ops.torchvision.nms.default._schema)"
    one = DEFINE.replace('("nms", "qnms")', '("nms",)')
    asked = registrations("qnms", "nms")
    done = python(code, **miniature(extension=half, half=one, _registrations=asked))
    assert done.returncode == 0, done.stderr
    assert "Tensor boxes, Tensor scores, float threshold" in done.stdout


def test_a_torchvision_that_was_imported_before_is_left_alone(python):
    code = (
        "import sys, torchvision, ghostify\n"
        "assert not any(type(f).__name__ == '_Guard' for f in sys.meta_path)\n"
        "assert sys.runs == 1 and 'torch' not in sys.modules"
    )
    done = python(code, **miniature(_registrations=""))
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


@pytest.mark.parametrize(
    "line",
    ["raise RuntimeError('something else')", "import torchvision.not_there", "1 / 0"],
)
def test_any_other_failure_is_python_s_own_and_at_once(python, line):
    code = (
        "import sys, ghostify\n"
        "try:\n    import torchvision\nexcept Exception as error:\n    print(repr(error))\n"
        "assert sys.runs == 1 and 'torch' not in sys.modules\n"
        "assert 'torchvision' not in sys.modules"
    )
    done = python(code, **miniature(extension=line))
    assert done.returncode == 0, done.stderr
    expected = ("RuntimeError('something else')", "ModuleNotFoundError(", "ZeroDivisionError(")
    assert done.stdout.startswith(expected) and done.stderr == ""


def test_a_second_failure_is_reported_and_leaves_nothing_declared(python):
    code = (
        "import sys, ghostify\n"
        "for _ in range(2):\n"
        "    try:\n        import torchvision\n"
        "    except RuntimeError as error:\n        print(error)\n"
        "import torch\n"
        "assert 'torchvision' not in sys.modules\n"
        "assert not hasattr(torch.ops.torchvision, 'roi')"
    )
    raised = "raise RuntimeError('operator torchvision::roi does not exist')"
    done = python(code, **miniature(extension=raised))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("operator torchvision::roi does not exist") == 2


def test_a_missing_torchvision_fails_as_python_says_it(python):
    code = (
        "import sys, ghostify\n"
        "sys.path[:] = [p for p in sys.path if 'site-packages' not in p]\n"
        "sys.path.remove(FOLDER)\n"
        "import torchvision\n"
    )
    done = python("import os\nFOLDER = os.environ['PYTHONPATH'].split(os.pathsep)[0]\n" + code)
    assert "ModuleNotFoundError: No module named 'torchvision'" in done.stderr
