"""Weights from files, whatever they are wrapped in; nothing that isn't weights."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ghostify.errors import WeightsError
from ghostify.zoo import load_weights

State = dict[str, Tensor]


def net() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.LazyLinear(2))


def dry(model: nn.Module) -> nn.Module:
    model(torch.zeros(1, 3, 5, 5))
    return model


@pytest.fixture
def source() -> nn.Module:
    return dry(net())


@pytest.fixture
def target() -> nn.Module:
    return dry(net())


def equal(one: nn.Module, other: nn.Module) -> bool:
    states = one.state_dict(), other.state_dict()
    return all(torch.equal(states[0][key], states[1][key]) for key in states[1])


def prefixed(prefix: str) -> Callable[[State], State]:
    return lambda state: {f"{prefix}{key}": value for key, value in state.items()}


WRAPPED: dict[str, Callable[[State], Any]] = {
    "bare": lambda state: state,
    "state_dict": lambda state: {"state_dict": state, "epoch": 3, "best": 0.9},
    "model": lambda state: {"model": state, "optimizer": {"lr": 0.1, "state": {}}},
    "model_state_dict": lambda state: {"model_state_dict": state},
    "net": lambda state: {"net": state},
    "nested": lambda state: {"checkpoint": 1, "model": {"state_dict": state}},
    "data parallel": prefixed("module."),
    "compiled": prefixed("_orig_mod."),
    "lightning": lambda state: {"state_dict": prefixed("model.")(state)},
    "both": lambda state: {"state_dict": prefixed("module._orig_mod.")(state)},
    "a prefix of one's own": prefixed("encoder.trunk."),
    "averaged": lambda state: {
        "model": {k: torch.zeros_like(v) for k, v in state.items()},
        "model_ema": state,
    },
    "parameters": lambda state: {k: nn.Parameter(v) if v.is_floating_point() else v
                                 for k, v in state.items()},
}  # fmt: skip


@pytest.mark.parametrize("kind", WRAPPED)
def test_wrappings_and_prefixes_are_taken_off(
    kind: str, source: nn.Module, target: nn.Module, tmp_path: Path
) -> None:
    torch.save(WRAPPED[kind](source.state_dict()), tmp_path / "weights.pth")
    assert not equal(source, target)
    load_weights(target, tmp_path / "weights.pth")
    assert equal(source, target)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_safetensors_are_read(
    prefix: str, source: nn.Module, target: nn.Module, tmp_path: Path
) -> None:
    save_file(prefixed(prefix)(source.state_dict()), tmp_path / "weights.safetensors")
    load_weights(target, tmp_path / "weights.safetensors")
    assert equal(source, target)


def test_counters_of_norms_may_be_missing(
    source: nn.Module, target: nn.Module, tmp_path: Path
) -> None:
    state = source.state_dict()
    del state["1.num_batches_tracked"]
    torch.save(state, tmp_path / "old.pth")
    load_weights(target, tmp_path / "old.pth")
    assert torch.equal(source[0].weight, target[0].weight)


def without(state: State, key: str) -> State:
    return {k: v for k, v in state.items() if k != key}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda s: without(s, "0.weight"), r"1 keys? differs? \(0\.weight is missing"),
        (lambda s: s | {"9.weight": torch.zeros(1)}, r"9\.weight is too much"),
        (
            lambda s: s | {"3.bias": torch.zeros(5)},
            r"3\.bias is \(5,\), not \(2,\)",
        ),
    ],
)
def test_misfits_are_named_and_the_network_stays_as_it_was(
    spoil: Callable[[State], State], message: str,
    source: nn.Module, target: nn.Module, tmp_path: Path,
) -> None:  # fmt: skip
    torch.save(spoil(source.state_dict()), tmp_path / "weights.pth")
    before = {key: value.clone() for key, value in target.state_dict().items()}
    with pytest.raises(WeightsError, match=message):
        load_weights(target, tmp_path / "weights.pth")
    assert all(torch.equal(target.state_dict()[k], v) for k, v in before.items())


class Malicious:
    """Pickles as a call of the shell."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> Any:
        return os.system, (self.command,)


@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_a_malicious_pickle_is_refused_and_runs_nothing(
    how: str, target: nn.Module, tmp_path: Path
) -> None:
    trace, file = tmp_path / "it-ran", tmp_path / "weights.pth"
    content = {"state_dict": Malicious(f"touch {trace}")}
    if how == "torch":
        torch.save(content, file)
    else:
        file.write_bytes(pickle.dumps(content))
    with pytest.raises(WeightsError):
        load_weights(target, file)
    assert not trace.exists()


def test_a_pickled_network_is_refused_with_the_way_out(
    source: nn.Module, target: nn.Module, tmp_path: Path
) -> None:
    torch.save(source, tmp_path / "model.pt")
    with pytest.raises(WeightsError, match="save its state_dict as safetensors"):
        load_weights(target, tmp_path / "model.pt")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("empty.pth", b""),
        ("text.pth", b"no weights at all"),
        ("empty.safetensors", b""),
        ("cut.safetensors", b"\x40\x00\x00\x00\x00\x00\x00\x00{"),
    ],
)
def test_a_file_that_is_no_weights_is_refused(
    name: str, content: bytes, target: nn.Module, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match=name):
        load_weights(target, tmp_path / name)


def test_a_missing_file_a_folder_and_other_data_are_refused(
    target: nn.Module, tmp_path: Path
) -> None:
    with pytest.raises(WeightsError, match="is no file"):
        load_weights(target, tmp_path / "nowhere.pth")
    with pytest.raises(WeightsError, match="can't be read"):
        load_weights(target, tmp_path)
    torch.save([1, 2, 3], tmp_path / "list.pth")
    with pytest.raises(WeightsError, match="holds no weights"):
        load_weights(target, tmp_path / "list.pth")


@pytest.mark.parametrize("change", [lambda x: x.to("meta"), lambda x: x.to_sparse()])
def test_values_that_can_not_be_copied_are_one_sentence(change, tmp_path):
    net = nn.Sequential(nn.Conv2d(3, 4, 3))
    torch.save({name: change(x) for name, x in net.state_dict().items()}, tmp_path / "odd.pt")
    with pytest.raises(WeightsError, match=r"values of .*odd\.pt can't be copied"):
        load_weights(net, tmp_path / "odd.pt")
