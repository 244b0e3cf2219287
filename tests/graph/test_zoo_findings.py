"""What the zoo's networks showed of finding stages, on small networks of the same form."""

import torch
from torch import Tensor, nn

import ghostify

SIZE = {"input_size": (3, 16, 16)}


class Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.a, self.b = (nn.Conv2d(width, width, 3, padding=1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.b(self.a(x).relu())


class OfResiduals(nn.Module):
    """A block made of three residual steps, as ShViT's and LowFormer's are."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.steps = nn.ModuleList(Residual(width) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        for step in self.steps:
            x = step(x)
        return x


class DenseLayer(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(width, 8, 1), nn.Conv2d(8, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.b(self.a(x))], dim=1)


class Unlike(nn.Module):
    """Three layers with a growing number of channels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(DenseLayer(width + 4 * i) for i in range(3)))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def left(model: nn.Module) -> dict[str, str]:
    return {item.name: item.reason for item in ghostify.find_stages(model, **SIZE).left}


def test_what_lies_inside_a_stages_blocks_is_not_told_of() -> None:
    table = ghostify.find_stages(
        nn.Sequential(nn.Conv2d(3, 8, 1), *(OfResiduals(8) for _ in range(3))), **SIZE
    )
    assert [len(stage.blocks) for stage in table.stages] == [3]
    assert table.left == ()


def test_modules_that_only_hold_the_stages_are_not_told_of() -> None:
    class Stage(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.down = nn.Conv2d(width // 2, width, 1)
            self.blocks = nn.Sequential(*(Residual(width) for _ in range(2)))

        def forward(self, x: Tensor) -> Tensor:
            return self.blocks(self.down(x))

    net = nn.Sequential(nn.Conv2d(3, 4, 1), Stage(8), Stage(16), Stage(32))
    assert left(net) == {f"{index}.blocks": "2 blocks, fewer than 3" for index in (1, 2, 3)}


def test_blocks_with_others_between_are_said_to_be_apart() -> None:
    class Other(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.down = nn.Conv2d(8, 16, 1), nn.Conv2d(16, 16, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.down(self.up(x))

    class Back(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(16, 8, 1), nn.Conv2d(8, 8, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(x))

    net = nn.Sequential(nn.Conv2d(3, 8, 1), Other(), Back(), Other(), Back(), Other())
    assert set(left(net).values()) == {
        "3 blocks apart from each other", "2 blocks, fewer than 3",
    }  # fmt: skip


def test_many_places_with_one_reason_are_told_of_in_one_line() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 4, 1)
            self.dense = nn.ModuleList(Unlike(4 + 12 * i) for i in range(5))

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            for block in self.dense:
                x = block(x)
            return x

    assert left(Net()) == {"dense.0.layers and 4 more": "its blocks' outputs differ in shape"}


def test_a_network_in_which_nothing_looks_like_a_stage_gets_one_reason() -> None:
    plain = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 16, 3), nn.Conv2d(16, 8, 3))
    reason = "at most 1 block of one shape in a row, fewer than 3"
    assert left(plain) == {"the network": reason}
    plan = ghostify.plan(plain, mode="g-ghost", **SIZE)
    assert [(kept.name, kept.reason) for kept in plan.kept_stages] == [("the network", reason)]
    assert left(nn.Sequential(nn.ReLU())) == {"the network": "it has no layers that mix channels"}


def test_a_network_that_neither_traces_nor_records_is_left_with_the_place() -> None:
    class Reads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x) if float(x.sum()) > 0 else self.conv(-x)

    (reason,) = left(Reads()).values()
    assert reason.startswith("nothing of it traces (") and "float" in reason


def test_blocks_of_tokens_are_said_to_give_no_maps() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(8, 16), nn.Linear(16, 8)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.b(self.a(x).relu())

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 8, 4, 4)
            self.blocks = nn.Sequential(*(Tokens() for _ in range(3)))

        def forward(self, x: Tensor) -> Tensor:
            return self.blocks(self.stem(x).flatten(2).transpose(1, 2))

    assert left(Net()) == {"blocks": "its blocks give no maps but tensors of 3 dimensions"}
