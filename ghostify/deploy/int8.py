"""Post-training quantisation to int8, by each runtime's own library."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx

from ghostify.deploy.formats import (
    FORMATS,
    Format,
    exported,
    quietly,
    require_packages,
    save_openvino,
    save_xnnpack,
    write_onnx,
)
from ghostify.deploy.program import Program, tensors_of
from ghostify.deploy.samples import Samples
from ghostify.errors import ModelError, SettingsError, first_cause


@dataclass(frozen=True)
class Quantizer:
    """How a format holds int8.

    Attributes:
        packages: What must be installed.
        extra: The extra of ghostify that brings it.
        write: Writes a program to a path, calibrated by samples.
        folds_ghost_norms: Whether norms go into the ghost modules first.
    """

    packages: tuple[str, ...]
    extra: str
    write: Callable[[Program, Samples, Path], None]
    folds_ghost_norms: bool = True


def quantizer_of(kind: Format) -> Quantizer:
    """What writes a format in int8.

    Raises:
        SettingsError: It has no int8, or what that needs is not installed.
    """
    if kind.name not in QUANTIZERS:
        raise SettingsError(
            f"{kind.name} has no int8 here: give one of {', '.join(QUANTIZERS)}, or leave it out."
        )
    quantizer = QUANTIZERS[kind.name]
    require_packages(f"{kind.name} in int8", quantizer.packages, quantizer.extra)
    return quantizer


def write_int8(kind: Format, program: Program, samples: Samples, path: Path) -> None:
    """Write a program to a file in int8.

    Raises:
        ModelError: The library can't quantise the network, or the format not hold it.
    """
    try:
        with quietly(), torch.no_grad():
            quantizer_of(kind).write(program, samples, path)
    except Exception as error:
        raise ModelError(
            f"{kind.name} can't hold the network in int8 ({first_cause(error)}): "
            "choose another format, or leave int8 out."
        ) from error


def _write_onnx(program: Program, samples: Samples, path: Path) -> None:
    """ONNX Runtime's static quantisation: QDQ, maps in uint8, weights in 7 bits by channel."""
    import onnx
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    plain, prepared = path.with_suffix(".float.onnx"), path.with_suffix(".prepared.onnx")
    write_onnx(program, plain)
    quant_pre_process(plain, prepared, skip_symbolic_shape=True)
    names = [entry.name for entry in onnx.load(prepared).graph.input]

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.runs = samples.runs()

        def get_next(self) -> dict[str, Any] | None:
            args = next(self.runs, None)
            return None if args is None else dict(zip(names, _arrays(args), strict=False))

    # Maps as uint8: signed ones are fused into no kernel on x86 where several layers read a map, as
    # in each ghost module and each residual sum. Weights in 7 of the 8 bits: on x86 without VNNI
    # the sum of two products is held in 16 bits, and 255 * 127 * 2 is too much.
    quantize_static(
        prepared, path, Reader(), quant_format=QuantFormat.QDQ, per_channel=True,
        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8, reduce_range=True,
    )  # fmt: skip
    model = onnx.load(path)
    onnx.helper.set_model_props(model, dict(program.facts))
    onnx.save(model, path)
    plain.unlink()
    prepared.unlink()


def _write_openvino(program: Program, samples: Samples, path: Path) -> None:
    import nncf
    import openvino

    onnx = path.with_suffix(".onnx")
    write_onnx(program, onnx)
    runs = [_arrays(args) for args in samples.runs()]
    with contextlib.redirect_stdout(io.StringIO()):  # bars of progress
        model = nncf.quantize(
            openvino.convert_model(onnx), nncf.Dataset(runs), subset_size=len(runs)
        )
    save_openvino(model, program, path)
    onnx.unlink()


def _write_executorch(program: Program, samples: Samples, path: Path) -> None:
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )

    quantizer = XNNPACKQuantizer().set_global(
        get_symmetric_quantization_config(is_per_channel=True)
    )
    save_xnnpack(exported(replace(program, network=_pt2e(program, samples, quantizer))), path)


def _pt2e(program: Program, samples: Samples, quantizer: Any) -> fx.GraphModule:
    """A program quantised by PyTorch 2 export."""
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    prepared = prepare_pt2e(exported(program).module(), quantizer)
    for args in samples.runs():
        prepared(*args)
    return convert_pt2e(prepared)


def _arrays(args: Sequence[Any]) -> list[Any]:
    return [_plain(tensor).numpy() for tensor in tensors_of(args)]


def _plain(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().contiguous()


QUANTIZERS: dict[str, Quantizer] = {
    "onnx": Quantizer(FORMATS["onnx"].packages, "onnx", _write_onnx),
    "openvino": Quantizer((*FORMATS["openvino"].packages, "nncf"), "int8", _write_openvino),
    "executorch": Quantizer(("executorch", "torchao"), "executorch", _write_executorch),
}
"""What writes int8, by the format's name; a new one is one more entry."""
