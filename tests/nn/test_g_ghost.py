"""The G-Ghost stage against Eq. 6-12 written out."""

import copy
import pickle

import pytest
import torch
from torch import nn

from ghostify import GGhostStage, GhostifyError
from ghostify.nn.g_ghost import Mix, cheap_operation, projection


def _block(inputs, outputs):
    return nn.Conv2d(inputs, outputs, 3, padding=1)


def _stage(entry="slice", last=True, mix=None, ghost_act=False, c=8, r=5):
    like = torch.zeros(1)
    inputs = c - r if entry == "slice" else c
    return GGhostStage(
        _block(4, c),
        [_block(r if entry == "slice" else c, r), _block(r, r)],
        cheap_operation(inputs, c - r, 1, like),
        mix,
        _block(c, c) if last else None,
        channels=c,
        complicated=r,
        entry=entry,
        ghost_act=ghost_act,
    ).eval()


@pytest.mark.parametrize("entry", ["slice", "project"])
def test_the_stage_is_eq_6_to_10(entry):
    stage, x = _stage(entry, last=False), torch.randn(2, 4, 6, 6)
    y1 = stage.first(x)
    complicated = y1[:, :5] if entry == "slice" else y1
    for block in stage.thin:
        complicated = block(complicated)
    ghosts = stage.cheap(y1[:, 5:] if entry == "slice" else y1)
    torch.testing.assert_close(stage(x), torch.cat([complicated, ghosts], 1))


def test_a_full_tail_puts_the_concat_before_the_last_block():
    stage, x = _stage(), torch.randn(2, 4, 6, 6)
    without = copy.deepcopy(stage)
    without.last = None
    torch.testing.assert_close(stage(x), stage.last(without(x)))


def test_the_fc_mix_is_eq_12_on_pooled_features():
    mix = Mix(7, 3)
    nn.init.normal_(mix.fc.weight)
    nn.init.normal_(mix.fc.bias)
    features = [torch.randn(2, 4, 5, 5), torch.randn(2, 3, 5, 5)]
    pooled = torch.cat([f.flatten(2).mean(-1) for f in features], 1)
    expected = pooled @ mix.fc.weight.flatten(1).T + mix.fc.bias
    torch.testing.assert_close(mix(features).flatten(1), expected)


@pytest.mark.parametrize("kind", ["fc", "mlp"])
def test_a_mix_starts_at_zero_and_gets_gradients(kind):
    mix = Mix(7, 3, kind)
    out = mix([torch.randn(4, 7, 5, 5)])
    assert torch.equal(out, torch.zeros(4, 3, 1, 1))
    (out - 1).square().sum().backward()
    assert any(p.grad.abs().sum() > 0 for p in mix.parameters())


def test_a_ghost_act_makes_ghosts_nonnegative_and_leaves_the_complicated_channels():
    stage, x = _stage(last=False, ghost_act=True), torch.randn(2, 4, 6, 6)
    plain = copy.deepcopy(stage)
    plain.ghost_act = None
    out, before = stage(x), plain(x)
    assert torch.equal(out[:, :5], before[:, :5])
    assert torch.equal(out[:, 5:], before[:, 5:].relu())


def test_a_cheap_operation_starts_as_the_identity_of_its_last_inputs():
    x = torch.randn(1, 8, 5, 5)
    for kernel in (1, 3, 5):
        cheap = cheap_operation(8, 3, kernel, x).eval()
        torch.testing.assert_close(cheap(x), x[:, 5:] / (1 + 1e-5) ** 0.5)


def test_a_projection_starts_as_the_selection_of_channels():
    x = torch.randn(1, 4, 5, 5)
    part = projection(torch.tensor([0, 2, 4, 6]), torch.tensor([4, 0, 5]), x).eval()
    expected = torch.stack([x[:, 2], x[:, 0], torch.zeros(1, 5, 5)], 1)
    torch.testing.assert_close(part(x), expected / (1 + 1e-5) ** 0.5)


def test_more_complicated_channels_than_channels_are_an_error():
    blocks = _block(8, 8), [_block(8, 8)]
    with pytest.raises(GhostifyError, match="complicated=9"):
        GGhostStage(*blocks, None, None, None, channels=8, complicated=9)


def test_a_stage_pickles_copies_scripts_and_exports():
    stage, x = _stage(mix=Mix(18, 3)), torch.randn(2, 4, 6, 6)
    expected = stage(x)
    assert torch.equal(copy.deepcopy(stage)(x), expected)
    assert torch.equal(pickle.loads(pickle.dumps(stage))(x), expected)
    torch.testing.assert_close(torch.jit.trace(stage, x)(x), expected)
    torch.testing.assert_close(torch.export.export(stage, (x,)).module()(x), expected)


CHOSEN = torch.tensor([6, 1, 4, 7, 2, 0, 3, 5])


@pytest.mark.parametrize("entry", ["slice", "project"])
def test_an_order_is_eq_6_to_10_with_other_complicated_channels(entry):
    stage, x = _stage(entry, last=False), torch.randn(2, 4, 6, 6)
    stage.set_order(CHOSEN)
    y1 = stage.first(x)
    complicated = y1[:, CHOSEN[:5]] if entry == "slice" else y1
    for block in stage.thin:
        complicated = block(complicated)
    ghosts = stage.cheap(y1[:, CHOSEN[5:]] if entry == "slice" else y1)
    expected = torch.empty(2, 8, 6, 6)
    expected[:, CHOSEN[:5]], expected[:, CHOSEN[5:]] = complicated, ghosts
    torch.testing.assert_close(stage(x), expected)
    assert torch.equal(stage.chosen(), CHOSEN)


def test_ghosts_that_are_channels_of_y1_keep_their_places():
    stage, x = _stage("project", last=False), torch.randn(2, 4, 6, 6)
    stage.cheap = None
    stage.set_order(CHOSEN)
    assert torch.equal(stage(x)[:, CHOSEN[5:]], stage.first(x)[:, CHOSEN[5:]])


def test_the_plain_order_is_no_buffer():
    stage = _stage()
    stage.set_order(torch.arange(8))
    assert stage.order is None and "order" not in stage.state_dict()
    assert torch.equal(stage.chosen(), torch.arange(8))


def test_an_order_that_misses_a_channel_is_an_error():
    with pytest.raises(GhostifyError, match="each of the 8 channels once"):
        _stage().set_order(torch.tensor([0, 0, 1, 2, 3, 4, 5, 6]))


def test_a_state_dict_brings_a_stages_order_along_and_takes_it_away():
    ordered, plain, x = _stage(), _stage(), torch.randn(2, 4, 6, 6)
    before = plain.state_dict()
    expected = plain(x)
    ordered.set_order(CHOSEN)
    holder = nn.Sequential(copy.deepcopy(plain))
    holder.load_state_dict(nn.Sequential(ordered).state_dict())
    assert torch.equal(holder(x), ordered(x))
    holder[0].load_state_dict(before)
    assert holder[0].order is None
    assert torch.equal(holder(x), expected)


@pytest.mark.parametrize("entry", ["slice", "project"])
def test_an_ordered_stage_pickles_copies_traces_and_exports(entry):
    stage, x = _stage(entry), torch.randn(2, 4, 6, 6)
    stage.set_order(CHOSEN)
    expected = stage(x)
    assert torch.equal(copy.deepcopy(stage)(x), expected)
    assert torch.equal(pickle.loads(pickle.dumps(stage))(x), expected)
    torch.testing.assert_close(torch.jit.trace(stage, x)(x), expected)
    torch.testing.assert_close(torch.export.export(stage, (x,)).module()(x), expected)
