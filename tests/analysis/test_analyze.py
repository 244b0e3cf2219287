"""Analysis of networks whose redundancy is known, of real ones on real images, and of bad input."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

import ghostify
from ghostify.analysis import Analysis, ImageFiles, analyze, draw
from ghostify.analysis.plots import draw_maps, save_figure
from ghostify.errors import GhostifyError, ModelError, SettingsError

DATA = Path(os.environ.get("GHOSTIFY_DATA", Path(__file__).parents[3] / "shared" / "data"))
needs_data = pytest.mark.skipif(
    not (DATA / "resnet56-cifar10.safetensors").is_file(),
    reason=f"no data in {DATA} (set GHOSTIFY_DATA)",
)
SMOOTH = torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]]) / 16


class Ghosted(nn.Module):
    """Eight maps: 0 to 3 independent, 4 a 3 x 3 ghost of 0, 5 and 6 scaled 1 and 2, 7 constant."""

    def __init__(self):
        super().__init__()
        self.body = nn.Conv2d(4, 8, 1, bias=False)
        self.maps = nn.Identity()

    def forward(self, x):
        ghost = F.conv2d(x[:, :1], SMOOTH.view(1, 1, 3, 3), padding=1)
        constant = torch.full_like(ghost, 3.0)
        maps = torch.cat([x, ghost, 2 * x[:, 1:2] + 1, -x[:, 2:3], constant], 1)
        self.body(x)
        return self.maps(maps)


class Scaled(nn.Module):
    """Eight maps: 0 to 3 independent, 4 to 6 scaled 0 to 2, 7 constant."""

    def __init__(self):
        super().__init__()
        self.maps = nn.Identity()

    def forward(self, x):
        scaled = torch.tensor([2.0, -1, 0.5]).view(1, 3, 1, 1) * x[:, :3] + 1
        return self.maps(torch.cat([x, scaled, torch.full_like(x[:, :1], 3)], 1))


def _noise(n=4, size=24):
    return torch.randn(n, 4, size, size, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def known() -> Analysis:
    return analyze(Ghosted(), _noise(), layers=["maps"])


def test_ghosts_are_found_as_pairs(known):
    pairs = {frozenset((p.source, p.target)) for p in known.layer("maps").pairs}
    assert pairs == {frozenset((0, 4)), frozenset((1, 5)), frozenset((2, 6))}


def test_a_ghost_of_a_3x3_kernel_is_made_by_any_kernel_from_3x3_on(known):
    pair = next(p for p in known.layer("maps").pairs if {p.source, p.target} == {0, 4})
    assert (pair.source, pair.target) == (0, 4)
    assert pair.fit(1).mse > 0.01
    for d in (3, 5, 7):
        assert pair.fit(d).mse < 1e-10
        assert pair.fit(d).r2 == pytest.approx(1)


def test_scaled_maps_are_made_by_any_kernel(known):
    pair = next(p for p in known.layer("maps").pairs if {p.source, p.target} == {1, 5})
    assert pair.correlation == pytest.approx(1)
    assert all(fit.mse < 1e-10 for fit in pair.fits)


def test_a_map_with_a_negated_ghost_correlates_with_minus_1(known):
    pair = next(p for p in known.layer("maps").pairs if {p.source, p.target} == {2, 6})
    assert pair.correlation == pytest.approx(-1)


def test_half_of_the_channels_explain_the_rest_and_a_third_does_not():
    layer = analyze(Scaled(), _noise(), layers=["maps"]).layer("maps")
    assert layer.constant == (7,)
    assert layer.subset(2).r2 == pytest.approx(1)
    assert layer.subset(2).explained == 1
    assert layer.subset(3).explained == 4 / 5  # one of the five others is independent
    assert layer.subset(3).r2 == pytest.approx(4 / 5, abs=0.02)


def test_the_recommended_s_is_the_largest_that_keeps_the_bound():
    strict = analyze(Scaled(), _noise(), layers="maps", min_r2=0.99).layer("maps")
    assert strict.s == 2
    assert max(s.s for s in strict.subsets if s.r2 >= 0.99) == 2


def test_independent_maps_are_left(known):
    net = nn.Sequential(nn.Identity(), nn.Identity())
    found = analyze(net, _noise(), layers=["0"])
    assert found.layer("0").s == 1
    with pytest.raises(SettingsError, match="No layer"):
        found.settings()


def test_lambda_is_the_share_of_channels_that_follow_from_the_first_block():
    class Stage(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Identity(), nn.Identity()

        def forward(self, x):
            x = self.first(x)
            noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(5))
            return self.last(torch.cat([x.flip(1)[:, :2] * 3, x[:, :1] - x[:, 1:2], noise], 1))

    found = analyze(Stage(), _noise(), layers=["first"], compare=[("first", "last")]).blocks[0]
    assert [round(r2, 1) for r2 in found.r2] == [1, 1, 1, 0, 0, 0, 0]
    assert found.ratio == 0.4  # 3 of 7


def test_batches_change_nothing():
    whole = analyze(Ghosted(), _noise(), layers=["maps"])
    parts = analyze(Ghosted(), list(_noise().split(1)), layers=["maps"])
    assert whole.layer("maps").pairs[0].correlation == pytest.approx(
        parts.layer("maps").pairs[0].correlation
    )
    assert whole.images == parts.images == 4


def test_a_data_loader_of_labelled_images_will_do():
    data = torch.utils.data.TensorDataset(_noise(), torch.zeros(4))
    found = analyze(Ghosted(), torch.utils.data.DataLoader(data, 2), layers=["maps"])
    assert found.images == 4


def test_two_runs_are_equal(known):
    assert analyze(Ghosted(), _noise(), layers=["maps"]) == known


def test_json_and_back(known):
    assert Analysis.from_dict(json.loads(known.to_json())) == known


def test_tables_name_the_layer(known):
    assert "maps" in str(known)
    assert "| maps | 8 |" in known.to_markdown()


def test_the_network_is_left_as_it_was():
    net = nn.Sequential(nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8), nn.ReLU(inplace=True)).train()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    analyze(net, _noise())
    assert net.training
    assert not net[0]._forward_hooks
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def test_an_in_place_relu_does_not_reach_what_was_seen():
    conv = nn.Conv2d(4, 8, 1)
    plain = analyze(nn.Sequential(conv), _noise(), layers=["0"])
    followed = analyze(nn.Sequential(conv, nn.ReLU(inplace=True)), _noise(), layers=["0"])
    assert plain.layers == followed.layers


def test_without_names_convolutions_and_ghost_modules_are_looked_at():
    net = nn.Sequential(
        nn.Conv2d(4, 8, 1), nn.Conv2d(8, 8, 3, groups=8), nn.BatchNorm2d(8), nn.Conv2d(8, 12, 3)
    )
    assert [layer.name for layer in analyze(net, _noise()).layers] == ["0", "3"]
    converted = ghostify.convert(net, s=2, only=["3"], input_size=(4, 24, 24))
    kinds = [layer.kind for layer in analyze(converted, _noise()).layers]
    assert kinds == ["Conv2d", "GhostConv2d"]


def test_the_recommendation_converts():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(4, 16, 1), nn.ReLU(), nn.Conv2d(16, 16, 1))
    settings = analyze(net, _noise()).settings()  # 16 mixtures of 4 maps
    converted = ghostify.convert(net, settings, input_size=(4, 24, 24))
    assert {m.s for m in converted.modules() if hasattr(m, "cheap")} == set(settings.s.values())


@pytest.mark.parametrize(
    ("images", "options", "words"),
    [
        ([], {}, "no image"),
        (iter([torch.zeros(1, 4, 8, 8)]), {}, "iterator"),
        (torch.zeros(4, 8, 8), {}, r"\(4, 8, 8\)"),
        ([Path("nowhere.png")], {}, "no file"),
        (torch.zeros(1, 4, 8, 8), {"layers": ["mops"]}, "mops.*maps"),
        (torch.zeros(1, 4, 8, 8), {"compare": [("maps", "end")]}, "'end'"),
        (torch.zeros(1, 4, 8, 8), {"s": (1,)}, "s=1"),
        (torch.zeros(1, 4, 8, 8), {"d": (2,)}, "d=2"),
        (torch.zeros(1, 4, 8, 8), {"min_r2": 0}, "min_r2"),
        (torch.zeros(1, 5, 8, 8), {}, "can't take"),
        (torch.full((1, 4, 8, 8), float("nan")), {}, "image 0 holds nan"),
    ],
)
def test_bad_input_is_one_sentence(images, options, words):
    with pytest.raises(GhostifyError, match=words):
        analyze(Ghosted(), images, **options)


def test_blocks_of_two_sizes_are_not_compared():
    net = nn.Sequential(nn.Conv2d(4, 8, 1), nn.Conv2d(8, 8, 3, 2))
    with pytest.raises(SettingsError, match="one stage"):
        analyze(net, _noise(), compare=[("0", "1")])


def test_a_layer_without_maps_is_refused():
    net = nn.Sequential(nn.Conv2d(4, 8, 1), nn.Flatten())
    with pytest.raises(SettingsError, match="feature maps"):
        analyze(net, _noise(), layers=["1"])


def test_image_files_are_resized_cut_and_normalised(tmp_path):
    Image.new("RGB", (64, 40), (255, 0, 128)).save(tmp_path / "a.png")
    net = ghostify.build("resnet20-cifar")
    (batch,) = ImageFiles([tmp_path], net)
    assert batch.shape == (1, 3, 32, 32)
    expected = [(1 - 0.485) / 0.229, (0 - 0.456) / 0.224, (128 / 255 - 0.406) / 0.225]
    assert batch[0, :, 16, 16].tolist() == pytest.approx(expected, rel=1e-5)


def test_a_file_that_is_no_image_is_told(tmp_path):
    (tmp_path / "a.png").write_text("no")
    with pytest.raises(GhostifyError, match=r"a\.png can't be read"):
        analyze("resnet20-cifar", tmp_path)


def _edge_colours(figure):
    return {
        spine.get_edgecolor()
        for axes in figure.axes
        for spine in axes.spines.values()
        if spine.get_visible() and spine.get_linewidth() > 2
    }


def test_pairs_are_framed_in_one_colour_each(known):
    pytest.importorskip("matplotlib")
    figure = draw_maps(torch.rand(8, 6, 6), known.layer("maps").pairs)
    framed = [
        axes
        for axes in figure.axes
        if any(s.get_visible() and s.get_linewidth() > 2 for s in axes.spines.values())
    ]
    assert sorted(axes.texts[0].get_text() for axes in framed) == ["0", "1", "2", "4", "5", "6"]
    assert len(_edge_colours(figure)) == 3


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_the_same_picture_gives_the_same_bytes(tmp_path, suffix):
    pytest.importorskip("matplotlib")
    for name in "ab":
        figure = draw_maps(torch.arange(16.0).view(1, 4, 4).expand(4, 4, 4), title="maps")
        save_figure(figure, tmp_path / f"{name}.{suffix}")
    first, second = ((tmp_path / f"{name}.{suffix}").read_bytes() for name in "ab")
    assert first == second
    assert len(first) > 1000


def test_a_converted_network_gets_pictures_of_its_ghosts(tmp_path):
    pytest.importorskip("matplotlib")
    net = ghostify.convert("resnet20-cifar", s=2, only=["layer1.0"])
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    found = analyze(net, images, layers=["layer1.0.conv1"], compare=[("layer1.0", "layer1.2")])
    written = draw(found, net, images, tmp_path, formats=["png"])
    assert [path.name for path in written] == [
        "redundancy.png",
        "maps-layer1.0.conv1.png",
        "ghosts-layer1.0.conv1.png",
        "blocks-layer1.0-layer1.2.png",
    ]
    for path in written:
        with Image.open(path) as picture:
            assert min(picture.size) > 200


def test_stages_are_found_and_their_lambdas_convert():
    images = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    net = ghostify.build("resnet20-cifar")
    found = analyze(net, images, layers=["conv1"], compare="stages")
    assert [(b.stage, b.first, b.last) for b in found.blocks] == [
        (f"layer{n}", f"layer{n}.0", f"layer{n}.2") for n in (1, 2, 3)
    ]
    settings = found.stage_settings(mix="none")
    assert set(settings.only) == {b.stage for b in found.blocks if b.ratio}
    assert Analysis.from_dict(json.loads(found.to_json())) == found
    converted = ghostify.convert(net, settings)
    assert len(ghostify.report(converted).rebuilt) == len(settings.only)


def test_a_g_ghost_network_gets_pictures_of_its_stages(tmp_path):
    pytest.importorskip("matplotlib")
    net = ghostify.convert("resnet20-cifar", mode="g-ghost", only=["layer2"])
    images = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    found = analyze(net, images, layers=["conv1"])
    names = [path.name for path in draw(found, net, images, tmp_path, formats=["png"])]
    assert "stage-layer2.png" in names


@pytest.fixture(scope="module")
def cifar(tmp_path_factory):
    import tarfile

    folder = tmp_path_factory.mktemp("images")
    with tarfile.open(DATA / "cifar10-jpeg.tar.gz") as archive:
        taken = 0
        for member in archive:
            if "test" in member.name and member.name.endswith(".jpg"):
                (folder / f"{taken}.jpg").write_bytes(archive.extractfile(member).read())
                taken += 1
            if taken == 8:
                break
    return folder


@needs_data
def test_a_trained_network_is_more_redundant_at_its_stem_than_inside(cifar):
    net = ghostify.build("resnet56-cifar", weights=DATA / "resnet56-cifar10.safetensors")
    found = analyze(net, cifar, layers=["conv1", "layer2.4.conv2"])
    assert found.layer("conv1").subset(2).r2 > 0.6
    assert found.layer("layer2.4.conv2").subset(2).r2 < 0.4
    assert found.layer("conv1").s > found.layer("layer2.4.conv2").s == 1


@needs_data
def test_the_command_writes_figures_figures_as_data_and_settings(cifar, tmp_path):
    import subprocess

    run = subprocess.run(
        ["ghostify", "analyze", "resnet20-cifar",
         "--weights", str(DATA / "resnet20-cifar10.safetensors"),
         "--image", str(cifar / "0.jpg"), str(cifar / "1.jpg"),
         "--layer", "conv1", "--compare", "layer2.0,layer2.2", "-o", str(tmp_path / "out")],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "conv1" in run.stdout
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"redundancy.svg", "maps-conv1.png", "blocks-layer2.0-layer2.2.svg"} <= names
    found = Analysis.from_dict(json.loads((tmp_path / "out" / "analysis.json").read_text()))
    assert found.images == 2
    assert "conv1" in (tmp_path / "out" / "settings.yaml").read_text()


def test_the_command_says_in_a_sentence_what_is_wrong():
    import subprocess

    run = subprocess.run(
        ["ghostify", "analyze", "resnet20-cifar", "--image", "nowhere.jpg"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 2
    assert "nowhere.jpg is no file" in run.stderr
    assert "Traceback" not in run.stderr


def test_a_network_that_can_not_be_copied_is_told():
    class Uncopied(nn.Module):
        def __deepcopy__(self, memo):
            raise RuntimeError("never")

    with pytest.raises(ModelError, match="copied"):
        analyze(Uncopied(), _noise())
