"""Saves that are killed, that cross, or are read meanwhile: one whole network, nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import ghostify
from ghostify.errors import SavedFolderError
from ghostify.files import drafts
from ghostify.saving import folder as folder_module
from ghostify.saving.sealed import digest_of

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the tests' processes are forks")

# One process that imports all of it, and forks: each of them would need seconds to start.
START = """
import json, os, random, signal, sys, time
from pathlib import Path
import torch, ghostify
from ghostify import saving
from ghostify.files import drafts
from ghostify.saving import folder as folder_module
from torch import nn

torch.manual_seed(0)
out = Path(sys.argv[1])
original = nn.Sequential(nn.Conv2d(8, 32, 3), nn.Conv2d(32, 8, 3))
models = [ghostify.convert(original, s=2, input_size=(8, 16, 16)) for _ in range(3)]
for shift, model in enumerate(models):
    with torch.no_grad():
        model[0].primary.weight.fill_(shift)

def value(folder):
    found = ghostify.load(folder, original)[0].primary.weight
    assert (found == found.flatten()[0]).all()
    return int(found.flatten()[0])

def names(folder):
    return sorted(path.name for path in folder.rglob("*")) if folder.exists() else []

def forked(work):
    child = os.fork()
    if not child:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return child

def ended(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
"""

KILL_AT_EACH_STEP = """
WATCHED = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod", "fcntl.flock"}

def save_and_die_at(step, model):
    count = 0
    def hook(event, args):
        nonlocal count
        if event in WATCHED and (event == "fcntl.flock" or str(out) in str(args[0])):
            count += 1
            if count == step:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hook)
    ghostify.save(model, out)

told = []
for step in range(1, 100):
    if sys.argv[2] == "fresh":
        for path in sorted(out.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        if out.exists():
            out.rmdir()
    else:
        ghostify.save(models[0], out)
    code = ended(forked(lambda: save_and_die_at(step, models[1])))
    left = names(out)
    found = value(out) if saving.is_saved(out) else None
    ghostify.save(models[2], out)
    told.append([code, left, found, names(out), value(out)])
    if code == 0:
        break
print(json.dumps(told))
"""

CROSS = """
before = time.monotonic()
ghostify.save(models[0], out)
def write(turn):
    for _ in range(int(sys.argv[2])):
        ghostify.save(models[turn], out)
        turn = (turn + 1) % 3
def look():
    for _ in range(4 * int(sys.argv[2])):
        assert value(out) in (0, 1, 2)
children = [forked(lambda: write(turn)) for turn in range(3)] + [forked(look) for _ in range(2)]
print(json.dumps([[ended(child) for child in children], names(out), value(out)]))
"""

KILL_AT_RANDOM = """
chance = random.Random(int(sys.argv[3]))
told = []
for _ in range(int(sys.argv[2])):
    def write():
        turn = 0
        while True:
            ghostify.save(models[turn % 3], out)
            turn += 1
    children = [forked(write) for _ in range(2)]
    time.sleep(chance.uniform(0.0, 0.15))
    for child in children:
        os.kill(child, signal.SIGKILL)
    assert {ended(child) for child in children} == {-9}
    left = names(out)
    assert not saving.is_saved(out) or value(out) in (0, 1, 2)
    ghostify.save(models[0], out)
    told.append([left, names(out), value(out)])
print(json.dumps(told))
"""


def told_by(script: str, *args: object, env: dict[str, str] | None = None):
    done = subprocess.run(
        [sys.executable, "-c", START + script, *map(str, args)],
        capture_output=True, text=True, check=False, timeout=500, env={**os.environ, **(env or {})},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def is_whole(names: list[str]) -> bool:
    """Whether these are a card, the weights and a recipe, and nothing beside them."""
    weights = names[1] if len(names) == 3 else ""
    return names == ["README.md", weights, "recipe.yaml"] and weights.startswith("model-")


@pytest.mark.parametrize("folder", ["fresh", "good"])
def test_a_save_that_is_killed_at_any_step_leaves_the_old_or_the_new_and_the_next_tidies_up(
    tmp_path, folder
):
    told = told_by(KILL_AT_EACH_STEP, tmp_path / "out", folder)
    codes = [code for code, *_ in told]
    assert codes[:-1] == [-9] * (len(told) - 1) and codes[-1] == 0 and len(told) > 10
    for _, _, found, after, last in told:
        assert found in ((0, 1) if folder == "good" else (None, 1))
        assert is_whole(after) and last == 2
    assert any(drafts.PLACE in left for _, left, *_ in told), "no kill left anything to tidy up"
    assert is_whole(told[-1][1]), "a save that was not killed left something"


@pytest.mark.parametrize("turns", [8, pytest.param(40, marks=pytest.mark.slow)])
def test_writers_and_readers_that_cross_see_whole_networks_and_leave_no_orphan(tmp_path, turns):
    codes, names, _ = told_by(CROSS, tmp_path / "out", turns)
    assert codes == [0] * 5
    assert is_whole(names), names


@pytest.mark.slow
def test_a_hundred_kills_at_random_moments_leave_nothing_behind(tmp_path):
    for left, after, found in told_by(KILL_AT_RANDOM, tmp_path / "out", 100, 1):
        assert is_whole(after) and found == 0, (left, after)


@pytest.fixture
def converted(small_net):
    return ghostify.convert(small_net, s=2, input_size=(3, 32, 32))


def old_leftovers(folder: Path) -> set[str]:
    """What kills of earlier versions left: drafts, safetensors' own, weights without a recipe."""
    folder.mkdir(exist_ok=True)
    (folder / ".0123456789abcdef0123456789abcdef.tmp").write_bytes(b"half")
    (folder / ".tmpQY6ZWa").write_bytes(b"\x08\0\0\0\0\0\0\0{ half")
    (folder / ".tmpAAAAAA").touch()
    weights = folder / "weights"
    weights.write_bytes(b"whole")
    weights.rename(folder / f"model-{digest_of(weights)[:8]}.safetensors")
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("is_saved", [True, False])
def test_what_killed_saves_of_earlier_versions_left_is_removed(converted, tmp_path, is_saved):
    out = tmp_path / "out"
    if is_saved:
        ghostify.save(converted, out)
    assert len(old_leftovers(out)) == 4 + 3 * is_saved
    ghostify.save(converted, out)
    assert is_whole(sorted(path.name for path in out.iterdir()))


def test_what_only_looks_like_a_leftover_stays(converted, tmp_path):
    out = ghostify.save(converted, tmp_path / "out")
    mine = {
        "model-01234567.safetensors": b"of another content than the name says",
        ".tmpNotes1": b"my own words",
        "notes.txt": b"mine",
        ".tmp": b"mine",
    }
    for name, content in mine.items():
        (out / name).write_bytes(content)
    ghostify.save(converted, out)
    assert {name: (out / name).read_bytes() for name in mine} == mine


def test_a_damaged_recipe_keeps_all_weights_until_the_new_ones_are_there(converted, tmp_path):
    out = ghostify.save(converted, tmp_path / "out")
    (old,) = out.glob("*.safetensors")
    (out / "recipe.yaml").write_text("damaged")
    with torch.no_grad():
        converted.stem.primary.weight.add_(1)
    ghostify.save(converted, out)
    assert not old.exists() and is_whole(sorted(path.name for path in out.iterdir()))


def test_a_place_that_its_holder_removes_just_now_is_made_anew(tmp_path, monkeypatch):
    real = Path.mkdir
    crossed = iter([True])

    def mkdir(self, *args, **options):
        if self.name == drafts.PLACE and next(crossed, False):  # there, and gone a moment later
            raise FileExistsError(17, "File exists")
        real(self, *args, **options)

    monkeypatch.setattr(Path, "mkdir", mkdir)
    with drafts.alone_in(tmp_path) as place:
        assert place.is_dir()


def test_a_second_writer_waits_and_is_told_in_the_end(converted, tmp_path, monkeypatch):
    monkeypatch.setattr(drafts, "WAIT", 0.05)
    out = ghostify.save(converted, tmp_path / "out")
    with drafts.alone_in(out), pytest.raises(drafts.BusyError, match="out is being written to"):
        ghostify.save(converted, out)
    ghostify.save(converted, out)
    assert is_whole(sorted(path.name for path in out.iterdir()))


def test_a_link_in_the_place_of_temporary_files_is_not_followed(converted, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years")
    out = ghostify.save(converted, tmp_path / "out")
    (out / drafts.PLACE).symlink_to(tmp_path / "mine", target_is_directory=True)
    with pytest.raises(SavedFolderError, match="is a link"):
        ghostify.save(converted, out)
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "years"


def test_a_reader_whose_weights_are_taken_away_reads_the_new_ones(
    converted, small_net, tmp_path, monkeypatch
):
    out = ghostify.save(converted, tmp_path / "out")
    real, calls = folder_module.read_weights, iter(range(9))

    def crossed(folder):
        if next(calls) == 0:  # between its recipe and its weights another save comes
            with torch.no_grad():
                converted.stem.primary.weight.add_(1)
            ghostify.save(converted, out)
        return real(folder)

    monkeypatch.setattr(folder_module, "read_weights", crossed)
    loaded = ghostify.load(out, small_net)
    assert torch.equal(loaded.stem.primary.weight, converted.stem.primary.weight)


def test_a_network_on_its_own_is_saved_whole(tmp_path):
    net = nn.Sequential(nn.Conv2d(3, 4, 3))
    out = ghostify.save(net, tmp_path / "deep" / "out")
    assert is_whole(sorted(path.name for path in out.iterdir()))
