"""A spool gives back what was put in, sample by sample where samples are alike."""

from __future__ import annotations

import torch
from torch import Tensor

from ghostify.data.spool import Spool, common_spans


def equal(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and torch.equal(one, other)


def test_nested_samples_come_back_one_by_one_and_in_batches() -> None:
    spool = Spool()
    whole = {"a": torch.rand(7, 3, 4), "b": [torch.arange(7), torch.rand(7) > 0.5, "text"]}
    for some in ([0, 1, 2], [3], [4, 5, 6]):
        spool.append(
            {"a": whole["a"][some], "b": [whole["b"][0][some], whole["b"][1][some], "text"]}
        )
    assert len(spool) == 7 and spool.is_even
    taken = spool.take([6, 0, 3])
    assert equal(taken["a"], whole["a"][[6, 0, 3]]) and equal(
        taken["b"][0], torch.tensor([6, 0, 3])
    )
    batches = list(spool.batches(3))
    assert [len(batch["a"]) for batch in batches] == [3, 3, 1]
    assert equal(torch.cat([batch["b"][1] for batch in batches]), whole["b"][1])
    assert batches[0]["b"][2] == "text"


def test_samples_that_are_not_alike_come_as_they_were_appended() -> None:
    spool, beside = Spool(), Spool()
    lists = [[torch.rand(3, 4, 5 + i), torch.rand(3, 6, 5)] for i in range(3)]
    for place, images in enumerate(lists):
        spool.append((images,), count=2, whole=True)
        beside.append(torch.full((2, 1), place))
    assert len(spool) == 6 and not spool.is_even and beside.is_even
    for wanted, (found,) in zip(lists, spool.batches(100), strict=True):
        assert all(map(equal, wanted, found))
    assert equal(spool.take([3])[0][0], lists[1][0])
    for place, span in enumerate(common_spans(100, spool, beside)):
        (images,), numbers = spool.slice(span), beside.slice(span)
        assert equal(images[1], lists[place][1])
        assert numbers.tolist() == [[place], [place]]
    part = spool.part(range(2, 4))
    assert len(part) == 2 and equal(part.take([0])[0][0], lists[1][0])


def test_rows_before_the_first_that_differs_are_kept() -> None:
    spool = Spool()
    tensors = [torch.rand(2, 3), torch.rand(1, 3), torch.rand(2, 4), torch.rand(())]
    for tensor in tensors:
        spool.append(tensor)
    assert all(map(equal, spool.batches(9), tensors))


def test_what_varies_beside_the_tensors_is_kept() -> None:
    spool = Spool()
    for number in range(3):
        spool.append((torch.rand(2, 2), number), 2)
    assert [batch[1] for batch in spool.batches(4)] == [0, 1, 2]


def test_empty_tensors_and_nothing_are_kept() -> None:
    spool = Spool()
    spool.append((torch.empty(2, 0), torch.ones(2, 1)))
    assert [tuple(t.shape) for t in spool.take([1])] == [(1, 0), (1, 1)]
    empty = Spool()
    empty.append({"nothing": None}, 4)
    assert list(empty.batches(2)) == [{"nothing": None}] and len(empty) == 4
