"""Losses and metrics of a caller's own: any task, any batch, and all else as ever."""

from __future__ import annotations

from collections import UserDict

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import ghostify
from ghostify.train import DataError, finetune
from ghostify.train import checkpoint as checkpoints
from tests.train.test_tuning import Stop, same

QUICK = {"steps": 6, "batch_size": 8, "lr": 0.01, "features": 1.0}


class Segmenter(nn.Module):
    """A U-Net of two levels: paths side by side, an output for each pixel, dropout."""

    def __init__(self, width: int = 8, classes: int = 3) -> None:
        super().__init__()
        self.down = self._block(3, width)
        self.deep = self._block(width, 2 * width)
        self.up = self._block(3 * width, width)
        self.drop = nn.Dropout2d(0.2)
        self.head = nn.Conv2d(width, classes, 1)
        self.classes = classes

    @staticmethod
    def _block(inputs: int, outputs: int) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(),
        )  # fmt: skip

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """``(N, 3, H, W)`` to ``{"out": (N, classes, H, W)}``."""
        first = self.down(x)
        deep = F.interpolate(self.deep(F.max_pool2d(first, 2)), scale_factor=2)
        return {"out": self.head(self.drop(self.up(torch.cat([first, deep], 1))))}


class Shapes(Dataset):
    """Images whose pixels' colours tell their classes; items are dicts."""

    def __init__(self, count: int = 24) -> None:
        generator = torch.Generator().manual_seed(3)
        colours = torch.randn(3, 3, generator=generator)
        masks = torch.randint(3, (count, 4, 4), generator=generator)
        self.masks = masks.repeat_interleave(4, 1).repeat_interleave(4, 2)
        noise = 0.3 * torch.randn(count, 3, 16, 16, generator=generator)
        self.images = colours[self.masks].movedim(3, 1) + noise

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int | slice) -> dict[str, Tensor]:
        return {"image": self.images[index], "mask": self.masks[index]}


def pixels_loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return F.cross_entropy(model(batch["image"])["out"], batch["mask"])


def two_losses(model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    out = model(batch["image"])["out"]
    return {"pixels": F.cross_entropy(out, batch["mask"]), "size": 0.01 * out.square().mean()}


def pixel_accuracy(model: nn.Module, batches) -> float:
    assert not model.training and not torch.is_grad_enabled()
    right = [(model(b["image"])["out"].argmax(1) == b["mask"]).float().mean() for b in batches]
    return float(torch.stack(right).mean())


@pytest.fixture
def segmenters() -> tuple[nn.Module, nn.Module]:
    """A converted network and its original, which is trained a little."""
    torch.manual_seed(0)
    teacher, data = Segmenter(), Shapes()
    optimizer = torch.optim.Adam(teacher.parameters(), 0.01)
    for _ in range(15):
        optimizer.zero_grad()
        F.cross_entropy(teacher(data.images)["out"], data.masks).backward()
        optimizer.step()
    return ghostify.convert(teacher, s=2, input_size=(3, 16, 16)), teacher.eval()


def test_a_network_of_another_task_learns_by_its_own_loss(segmenters):
    student, _ = segmenters
    rows = []
    tuned = finetune(
        student, Shapes(), loss=pixels_loss, metric=pixel_accuracy, val=Shapes(12),
        progress=rows.append, log_steps=1, **{**QUICK, "steps": 30, "lr": 0.05},
    )  # fmt: skip
    assert tuned.losses == ("own",) and tuned.points == ()
    assert rows[-1].own["own"] == rows[-1].loss < 0.7 * rows[0].loss
    assert tuned.validation.value > tuned.before.value + 0.1
    with torch.no_grad():
        again = pixel_accuracy(tuned.model.eval(), [Shapes(12)[i : i + 8] for i in (0, 8)])
    assert again == pytest.approx(tuned.validation.value), "the weights are those of the best step"
    assert tuned.best_step in (3, 6, 9, 12, 15, 18, 21, 24, 27, 30), "the ends of epochs"


def test_the_original_teaches_features_beside_the_loss(segmenters):
    student, teacher = segmenters
    rows = []
    tuned = finetune(
        student, Shapes(), loss=two_losses, teacher=teacher, progress=rows.append, log_steps=1,
        **{**QUICK, "steps": 20, "features": 10.0},
    )  # fmt: skip
    assert tuned.losses == ("own/pixels", "own/size", "features")
    ghosts = {n for n, m in student.named_modules() if isinstance(m, ghostify.GhostConv2d)}
    assert {"down.0", "deep.3", "up.3"} <= set(tuned.points) <= ghosts
    assert rows[-1].features < 0.8 * rows[0].features
    first = rows[0]
    assert first.loss == pytest.approx(sum(first.own.values()) + 10 * first.features, rel=1e-5)


def test_without_loss_and_metric_nothing_is_different(pair, labelled):
    options = {"steps": 3, "batch_size": 16, "input_size": (3, 16, 16), "teacher": pair[1]}
    rows = []
    finetune(pair[0], labelled, val=labelled, progress=rows.append, **options)
    assert rows[-1].own == {} and rows[-1].validation.top1.images == 48


def test_the_best_weights_are_the_result_and_not_the_last(segmenters):
    told = iter([0.1, 0.9, 0.5, float("nan"), 0.2])
    states = []

    def metric(model, batches):
        states.append(model.state_dict()["head.weight"].clone())
        return {"chosen": next(told), "other": 1.0}

    tuned = finetune(
        segmenters[0], Shapes(), loss=pixels_loss, metric=metric, val=Shapes(4), **QUICK,
        validate_steps=2, ema=0.9,
    )  # fmt: skip
    assert tuned.best_step == 2 and tuned.validation.figures == {"chosen": 0.9, "other": 1.0}
    assert torch.equal(tuned.model.state_dict()["head.weight"], states[1])
    assert not torch.equal(states[1], states[3])
    assert tuned.before.figures["chosen"] == 0.1
    assert "the weights are those of step 2" in tuned.describe()[2]


def test_where_no_step_was_better_the_network_stays_as_it_was(segmenters):
    told = iter([0.9, 0.1, 0.1])
    tuned = finetune(
        segmenters[0], Shapes(), loss=pixels_loss, metric=lambda *_: next(told), val=Shapes(4),
        **QUICK,
    )  # fmt: skip
    assert tuned.best_step == 0 and same(tuned.model, segmenters[0])


def test_a_metric_goes_with_labels_and_scores_too(pair, labelled):
    def top1(model, batches):
        found = [(model(images).argmax(1) == labels).float().mean() for images, labels in batches]
        return {"top1": torch.stack(found).mean()}

    tuned = finetune(
        pair[0], labelled, metric=top1, val=labelled, steps=60, batch_size=16, lr=0.05,
        input_size=(3, 16, 16),
    )  # fmt: skip
    assert tuned.losses == ("ce",) and tuned.validation.value > tuned.before.value


def loader(count: int = 24, **options) -> DataLoader:
    return DataLoader(Shapes(count), batch_size=4, shuffle=True, **options)


@pytest.mark.parametrize("data", [
    Shapes, loader, lambda: (Shapes().images, Shapes().masks),
    lambda: [(image, mask) for image, mask in zip(Shapes().images, Shapes().masks, strict=True)],
], ids=["items", "loader", "tensors", "list"])  # fmt: skip
@pytest.mark.parametrize("options", [
    {"ema": 0.9, "clip": 1.0, "teacher": True}, {"optimizer": "adamw", "accumulate": 2},
])  # fmt: skip
def test_a_run_that_failed_goes_on_to_the_same_bits(tmp_path, segmenters, data, options):
    def loss(model, batch):
        images, masks = batch.values() if isinstance(batch, dict) else batch
        return two_losses(model, {"image": images, "mask": masks})

    def metric(model, batches):
        return float(sum(-loss(model, batch)["pixels"] for batch in batches))

    student, teacher = segmenters
    asked = {**QUICK, **options, "steps": 8, "loss": loss, "metric": metric, "val": data()}
    asked["teacher"] = teacher if "teacher" in options else None
    wanted = finetune(student, data(), **asked)

    def fail(row):
        if row.step == 5:
            raise Stop

    with pytest.raises(Stop):
        finetune(
            student, data(), output=tmp_path / "o", progress=fail, log_steps=1,
            checkpoint_steps=2, **asked,
        )  # fmt: skip
    torch.manual_seed(123)
    tuned = finetune(student, data(), output=tmp_path / "o", resume=True, **asked)
    assert tuned.steps == 8 and same(tuned.model, wanted.model)
    assert (tuned.best_step, tuned.before) == (wanted.best_step, wanted.before)
    head, *rows = (tmp_path / "o" / "training" / "metrics.csv").read_text().splitlines()
    assert head == ("step,epoch,lr,loss,own/pixels,own/size,features,images_per_second,val_metric")
    steps = [int(row.split(",")[0]) for row in rows]
    assert steps == sorted(set(steps)) and steps[-1] == 8


def test_what_is_logged_is_shown_and_written_under_its_names(tmp_path, segmenters):
    import io

    from rich.console import Console

    from ghostify.train.board import Board

    for terminal in (False, True):
        stream = io.StringIO()
        console = Console(file=stream, force_terminal=terminal, width=160)
        with Board(console=console) as board:
            finetune(
                segmenters[0], Shapes(), loss=two_losses, val=Shapes(4), log_steps=1,
                metric=lambda *_: {"iou": 0.25}, progress=board, output=tmp_path / f"{terminal}",
                **QUICK,
            )  # fmt: skip
        assert all(
            word in stream.getvalue() for word in ("own/pixels", "own/size", "iou", "0.2500")
        )
    folder = tmp_path / "True" / "training"
    head, *rows = folder.joinpath("metrics.csv").read_text().splitlines()
    cells = [dict(zip(head.split(","), row.split(","), strict=True)) for row in rows]
    assert all(float(c["own/pixels"]) > 0 and c["features"] == "" for c in cells)
    assert [c["val_iou"] for c in cells] == ["", "", "0.25", "", "", "0.25"]
    assert list(folder.glob("events.out.tfevents.*"))


class Boxes(Dataset):
    """Images of uneven sizes with boxes, as detection's lists have them; a batch is an object."""

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int):
        return torch.rand(3, 12 + index, 16), {"boxes": torch.tensor([[1.0, 2.0, 515.25, index]])}

    @staticmethod
    def collate_fn(items):
        images, targets = zip(*items, strict=True)
        return Batch(images=list(images), targets=list(targets))


class Batch(UserDict):
    """A batch that knows itself how to move."""

    moved = False

    def to(self, device):
        self.moved = True
        return self


def test_batches_come_as_they_are_and_mixed_precision_leaves_them_alone(segmenters):
    seen = []

    def loss(model, batch):
        assert batch.moved
        seen.extend(target["boxes"][0, 2] for target in batch["targets"])
        outputs = [model(x[None])["out"] for x in pad(batch["images"])]
        seen.append(outputs[0])
        return sum(out.square().mean() for out in outputs)

    def pad(images):
        return [F.pad(x, (0, 0, 0, -x.shape[1] % 4)) for x in images]

    student, teacher = segmenters
    tuned = finetune(
        student, Boxes(), loss=loss, teacher=teacher, precision="bf16", steps=2, batch_size=2,
        features=1.0,
    )  # fmt: skip
    assert "features" in tuned.losses and len(tuned.points) > 1, "each image has a call of its own"
    boxes = [x for x in seen if x.ndim == 0]
    assert all(x == 515.25 and x.dtype == torch.float32 for x in boxes)
    assert {x.dtype for x in seen if x.ndim} == {torch.bfloat16}


class TwoStages(nn.Module):
    """A backbone, and a head that has a part for each of several regions that it chooses."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1))
        self.head = nn.Conv2d(16, 16, 3)

    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 1e9:
            return x
        maps = self.body(x)
        places = maps.sum((0, 1)).flatten().topk(5).indices % 8
        regions = torch.cat([maps[:, :, p : p + 4, p : p + 4] for p in places.tolist()])
        return self.head(regions).mean()


def test_what_networks_compute_of_regions_of_their_own_choice_is_not_compared():
    torch.manual_seed(0)
    teacher = TwoStages()
    student = ghostify.convert(teacher, s=2, example_inputs=torch.rand(2, 3, 12, 12))
    tuned = finetune(
        student, torch.rand(4, 3, 12, 12), teacher=teacher, steps=1, batch_size=2,
        loss=lambda model, images: model(images),
    )  # fmt: skip
    assert isinstance(student.head, ghostify.GhostConv2d)
    assert set(tuned.points) == {"body.0", "body.1"}


def test_a_loss_may_call_a_method_of_the_network(segmenters):
    class Helped(Segmenter):
        def loss(self, batch):
            assert self.training and self.classes == 3
            return pixels_loss(self.forward, batch)

    teacher = Helped()
    student = ghostify.convert(teacher, s=2, input_size=(3, 16, 16))
    tuned = finetune(
        student, Shapes(), loss=lambda model, batch: model.loss(batch), teacher=teacher, **QUICK
    )
    assert tuned.losses == ("own", "features") and type(tuned.model) is Helped


def test_the_teacher_stays_as_it_is_and_drops_nothing(segmenters):
    student, teacher = segmenters
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    teacher.train()
    finetune(student, Shapes(), loss=pixels_loss, teacher=teacher, **QUICK)
    assert all(torch.equal(v, before[k]) for k, v in teacher.state_dict().items())
    assert all(p.requires_grad for p in teacher.parameters()) and teacher.drop.training


def test_an_uneven_number_of_a_loaders_batches_makes_whole_steps(segmenters):
    seen = []

    def loss(model, batch):
        seen.append(len(batch["image"]))
        return pixels_loss(model, batch)

    tuned = finetune(segmenters[0], loader(20), loss=loss, epochs=2, accumulate=2, lr=0.01)
    assert tuned.steps == 4 and len(seen) == 1 + 8, "the first one is tried before"


def test_a_folder_gives_images_and_labels(small_net, write_images, tmp_path):
    folder = write_images(tmp_path / "images", {"a": 4, "b": 4})
    batches = []

    def loss(model, batch):
        images, labels = batch
        batches.append((images.dtype, tuple(images.shape), labels.max().item() < 2))
        return F.cross_entropy(model(images), labels)

    finetune(small_net, folder, loss=loss, steps=2, batch_size=4, input_size=(3, 16, 16))
    assert set(batches) == {(torch.float32, (4, 3, 16, 16), True)}


def _fails(model, batch):
    raise KeyError("boxes")


def _changes():
    names = iter("abcdef")
    return lambda model, batch: {next(names): pixels_loss(model, batch)}


REFUSED = {
    "fails": ({"loss": _fails}, ("_fails", "KeyError", "boxes")),
    "no tensor": ({"loss": lambda m, b: 3.0}, ("gives 3.0", "tensor of one number")),
    "a map": ({"loss": lambda m, b: m(b["image"])["out"]}, ("a tensor (8, 3, 16, 16)",)),
    "no gradient": ({"loss": lambda m, b: torch.zeros(())}, ("does not depend on any weight",)),
    "other names": ({"loss": _changes()}, ("gives own/b", "own/a", "same names")),
    "val alone": ({"val": Shapes(4)}, ("val", "metric")),
    "metric alone": ({"metric": pixel_accuracy}, ("metric", "val=data")),
    "no figure": ({"metric": lambda *_: "good", "val": Shapes(4)}, ("metric", "good")),
    "no figures": ({"metric": lambda *_: {}, "val": Shapes(4)}, ("metric", "empty dict")),
    "no length": ({"data": iter([1])}, ("no data", "loader")),
    "a number": ({"data": 3}, ("A int is no data",)),
    "too few": ({"batch_size": 64}, ("24 images", "batch_size=64")),
    "unlike": ({"data": (torch.zeros(3, 1), torch.zeros(2))}, ("(3, 1), (2,)", "one length")),
    "empty": ({"data": []}, ("no images",)),
    "no loss": ({"loss": 3}, ("loss=3", "function")),
    "no metric": ({"metric": "iou", "val": Shapes(4)}, ("metric='iou'", "function")),
}  # fmt: skip


@pytest.mark.parametrize("change, words", REFUSED.values(), ids=REFUSED)
def test_what_makes_no_sense_is_one_sentence(segmenters, change, words):
    asked = {**QUICK, "loss": pixels_loss, **change}
    data = asked.pop("data", Shapes())
    with pytest.raises(ghostify.GhostifyError) as caught:
        finetune(segmenters[0], data, **asked)
    text = str(caught.value)
    assert all(word in text for word in words) and "\n" not in text, text


def test_a_run_with_another_loss_is_not_gone_on_with(tmp_path, segmenters):
    def stop(row):
        if row.step == 2:
            raise Stop

    asked = {**QUICK, "output": tmp_path / "o"}
    with pytest.raises(Stop):
        finetune(
            segmenters[0], Shapes(), loss=pixels_loss, progress=stop, log_steps=1,
            checkpoint_steps=1, **asked,
        )  # fmt: skip
    assert checkpoints.path_in(tmp_path / "o").is_file()
    with pytest.raises(ghostify.GhostifyError, match=r"loss=\('own',\)"):
        finetune(segmenters[0], Shapes(), loss=two_losses, resume=True, **asked)


@pytest.mark.parametrize("val_samples, counted", [(None, 20), (6, 6)])
@pytest.mark.parametrize("kind", ["tensors", "loader"])
def test_a_metric_sees_all_validation_images_and_no_others(kind, val_samples, counted):
    labelled = torch.rand(20, 3, 16, 16), torch.arange(20) % 4
    val = DataLoader(TensorDataset(*labelled), batch_size=4) if kind == "loader" else labelled
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())

    def run():
        return finetune(
            net, labelled, val=val, steps=1, batch_size=16, input_size=(3, 16, 16),
            val_samples=val_samples, metric=lambda net, batches: sum(len(x) for x, _ in batches),
        )  # fmt: skip

    if kind == "loader" and val_samples:
        with pytest.raises(DataError, match="from a loader"):
            run()
    else:
        assert run().validation.figures == {"metric": counted}
