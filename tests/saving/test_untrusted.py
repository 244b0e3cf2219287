"""A saved folder that was not trusted builds a bare architecture: no code, no files, no network."""

from __future__ import annotations

import os
import re
import socket

import pytest
import torch
import yaml
from torch import nn

import ghostify
from ghostify.errors import GhostifyWarning, SavedFolderError
from ghostify.saving.history import Source
from ghostify.saving.untrusted import UntrustedError, check_source
from ghostify.zoo import sources

RESNET = "timm/resnet10t"


class Evil:
    """What runs a command when it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.fixture
def no_network(monkeypatch):
    """Sockets can't be opened, and the attempts are counted."""
    attempts = []

    def refuse(*args, **options):
        attempts.append(args)
        raise OSError("no network in this test")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    return attempts


def rewritten(folder, source):
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    recipe["source"] = source
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return folder


@pytest.fixture(scope="module")
def timm_folder(tmp_path_factory):
    pytest.importorskip("timm")
    converted = ghostify.convert(ghostify.build(RESNET, {"num_classes": 7}), s=2)
    return ghostify.save(converted, tmp_path_factory.mktemp("timm") / "out")


def test_no_argument_of_timm_loads_a_pickle_or_opens_a_socket(timm_folder, tmp_path, no_network):
    mark, file = tmp_path / "ran", str(tmp_path / "evil.pth")
    torch.save({"state_dict": Evil(mark)}, file)
    for model_args in (
        {"checkpoint_path": file},
        {"pretrained": True},
        {"pretrained": True, "pretrained_cfg": {"file": file}},
        {"pretrained": True, "pretrained_cfg": {"url": "http://127.0.0.1:9/x"}},
        {"pretrained": True, "pretrained_cfg_overlay": {"file": file}},
        {"pretrained": 1, "pretrained_cfg": {"hf_hub_id": "timm/resnet10t.c3_in1k"}},
        {"cache_dir": str(tmp_path / "cache")},
    ):
        rewritten(timm_folder, {"name": RESNET, "model_args": model_args})
        with pytest.raises(SavedFolderError, match=r"more than a known architecture .*trust=True"):
            ghostify.load(timm_folder)
    assert not mark.exists() and not no_network
    rewritten(timm_folder, {"name": RESNET, "model_args": {"num_classes": 7, "pretrained": False}})
    assert ghostify.load(timm_folder).fc.out_features == 7 and not no_network


def careless(name, arguments):
    """A factory like timm 1.0.9's `create_model`: it loads what it is told, by pickle."""
    network = ghostify.build("resnet20-cifar")
    if arguments.get("checkpoint_path"):
        torch.load(arguments["checkpoint_path"], weights_only=False)
    if arguments.get("address"):
        socket.create_connection((arguments["address"], 9))
    return network


def test_a_factory_that_would_load_anything_is_not_told_to(tmp_path, monkeypatch, no_network):
    kind = sources.ModelSource(lambda name: name == "careless", lambda: ["careless"], careless)
    monkeypatch.setattr(sources, "SOURCES", (kind, *sources.SOURCES))
    folder = ghostify.save(ghostify.convert("resnet20-cifar", s=2), tmp_path / "out")
    mark = tmp_path / "ran"
    torch.save(Evil(mark), tmp_path / "evil.pth")
    for model_args in (
        {"checkpoint_path": str(tmp_path / "evil.pth")},
        {"address": "127.0.0.1"},
        {"address": "http://example.org"},
    ):
        rewritten(folder, {"name": "careless", "model_args": model_args})
        with pytest.raises(SavedFolderError, match="trust=True"):
            ghostify.load(folder)
    assert not mark.exists() and not no_network
    # The same folder does it when trusted, so the test can fail.
    rewritten(
        folder, {"name": "careless", "model_args": {"checkpoint_path": f"{tmp_path}/evil.pth"}}
    )
    ghostify.load(folder, trust=True)
    assert mark.exists()


@pytest.mark.parametrize(
    "model_args",
    [
        {},
        {"num_classes": 10, "drop_path_rate": 0.1, "act_layer": "relu", "block_args": {"rd": 0.5}},
        {"pretrained": False, "weights": None, "checkpoint_path": "", "pretrained_cfg": {}},
        {"pretrained_window_sizes": [0, 0], "use_checkpoint": True, "init_weights": True},
        {"layers": [2, 2, 2, 2], "bbox_reg_weights": [10.0, 5.0]},
    ],
)
def test_sizes_and_options_need_no_trust(model_args):
    check_source(Source("resnet18", model_args))


@pytest.mark.parametrize(
    "model_args",
    [
        {"weights": "DEFAULT"},
        {"weights_backbone": "IMAGENET1K_V1"},
        {"pretrained_backbone": True},
        {"weights": 1},
        {"a": [{"b": {"url": "x"}}]},
        {"a": {"pretrained_cfg_x": 1}},
        {"file": 3},
        {"my_path": "x"},
        {"load_from_hub": "x"},
        {"variant": "../x"},
        {"variant": "a.pth"},
        {"variant": "http://x"},
        {"variant": "hf-hub:x"},
        {"variant": "x\\y"},
        {"variant": "a" * 65},
        {"variant": ["a", "b/c"]},
        {"a b": 1},
        {"a": [0] * 1001},
        {"a": [[[[[[[[[1]]]]]]]]]},
    ],
)
def test_what_may_reach_out_needs_trust(model_args):
    with pytest.raises(UntrustedError):
        check_source(Source("resnet18", model_args))


@pytest.mark.parametrize(
    "name",
    ["timm/hf-hub:a/b", "timm/local-dir:x", "timm/../x", "timm/resnet18.a/b", "/x", "x\n", "timm/"],
)
def test_a_name_that_leads_elsewhere_needs_trust(name):
    with pytest.raises(UntrustedError, match=re.escape(repr(name))):
        check_source(Source(name))


def test_a_folder_of_pretrained_weights_has_them_and_needs_no_trust(tmp_path, monkeypatch):
    timm = pytest.importorskip("timm")
    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained=False: create(name))
    network = ghostify.build(RESNET, {"pretrained": True})
    folder = ghostify.save(ghostify.convert(network, s=2), tmp_path / "out")
    assert yaml.safe_load((folder / "recipe.yaml").read_text())["source"]["model_args"] == {}
    loaded, x = ghostify.load(folder), torch.zeros(1, 3, 64, 64)
    assert loaded.eval()(x).shape == network.eval()(x).shape


def test_saving_says_what_loading_would_refuse(tmp_path):
    converted = ghostify.convert(nn.Sequential(nn.Conv2d(3, 64, 3), nn.Conv2d(64, 64, 3)), s=2)
    source = Source("googlenet", {"weights": "DEFAULT"})
    with pytest.warns(GhostifyWarning, match=r"argument weights .*load\(folder, model=original\)"):
        ghostify.save(converted, tmp_path / "out", source=source)
    with pytest.raises(SavedFolderError, match="the argument weights"):
        ghostify.load(tmp_path / "out")
