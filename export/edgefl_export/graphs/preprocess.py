"""Preprocessing as a graph: decoded image of any size to a normalised sample, the same on every device.

Written in ONNX directly: an antialiased resize of symbolic height and width has no torch operator that exports.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgefl_export.formats.onnx import to_model

__all__ = ["Preprocessing", "preprocess_graph"]

_LUMA = (0.299, 0.587, 0.114)  # ITU-R 601, as in Pillow's convert("L")


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocessing:
    """How images become samples.

    Attributes:
        image_size: Height and width of a sample, in pixels.
        resize_to: The shorter side after resizing, at least `image_size`; the middle is then cut out.
        channels: 3 for RGB, 1 for grey.
        interpolation: How pixels are resampled; both with antialiasing.
        mean: Of each channel, in 0..1.
        std: Of each channel, in 0..1.
    """

    image_size: int
    resize_to: int
    channels: int
    interpolation: Literal["bilinear", "bicubic"]
    mean: tuple[float, ...]
    std: tuple[float, ...]


def preprocess_graph(settings: Preprocessing) -> onnx.ModelProto:
    """Return the graph from `images` uint8 (batch, height, width, 3) to `samples` float32 (batch, C, size, size)."""
    size, channels = settings.image_size, settings.channels
    graph = helper.make_graph(
        [*_colour(channels), *_resize(settings.interpolation), *_crop(), *_normalise()],
        "graph",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", "height", "width", 3])],
        [helper.make_tensor_value_info("samples", TensorProto.FLOAT, ["batch", channels, size, size])],
        [numpy_helper.from_array(value, name) for name, value in _constants(settings).items()],
    )
    model = to_model(graph)
    onnx.checker.check_model(model, full_check=True)
    return model


def _constants(settings: Preprocessing) -> dict[str, np.ndarray[Any, Any]]:
    channels = settings.channels
    luma = {"luma": np.array(_LUMA, np.float32).reshape(3, 1)} if channels == 1 else {}
    return {
        **luma,
        "resize_to": np.array(settings.resize_to, np.int64),
        "spatial": np.array([2, 3], np.int64),
        "size": np.array([settings.image_size] * 2, np.int64),
        "half": np.array(0.5, np.float32),
        "lowest": np.array(0.0, np.float32),
        "highest": np.array(255.0, np.float32),
        "offset": np.array(settings.mean, np.float32).reshape(1, channels, 1, 1) * np.float32(255.0),
        "range": np.array(settings.std, np.float32).reshape(1, channels, 1, 1) * np.float32(255.0),
    }


def _colour(channels: int) -> list[onnx.NodeProto]:
    """From `images` to `planes`, float32 (batch, C, height, width) in 0..255."""
    grey = helper.make_node("MatMul", ["pixels", "luma"], ["coloured"])
    return [
        helper.make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT),
        grey if channels == 1 else helper.make_node("Identity", ["pixels"], ["coloured"]),
        helper.make_node("Transpose", ["coloured"], ["planes"], perm=[0, 3, 1, 2]),
    ]


def _resize(interpolation: Literal["bilinear", "bicubic"]) -> list[onnx.NodeProto]:
    """From `planes` to `whole`, whose shorter side has the length wanted."""
    # Pillow's cubic kernel has a = -0.5.
    kernel: dict[str, Any] = (
        {"mode": "linear"} if interpolation == "bilinear" else {"mode": "cubic", "cubic_coeff_a": -0.5}
    )
    return [
        # torchvision rounds the longer side down; Resize's own keep_aspect_ratio_policy rounds and samples otherwise.
        helper.make_node("Shape", ["planes"], ["given"], start=2, end=4),
        helper.make_node("ReduceMin", ["given"], ["shorter"], keepdims=1),
        helper.make_node("Mul", ["given", "resize_to"], ["enlarged"]),
        helper.make_node("Div", ["enlarged", "shorter"], ["resized"]),
        # Pillow leaves out what lies outside the image.
        helper.make_node(
            "Resize",
            ["planes", "", "", "resized"],
            ["whole"],
            antialias=1,
            axes=[2, 3],
            exclude_outside=1,
            **kernel,
        ),
    ]


def _crop() -> list[onnx.NodeProto]:
    """From `whole` to the square in its `middle`."""
    return [
        helper.make_node("Shape", ["whole"], ["extent"], start=2, end=4),
        helper.make_node("Sub", ["extent", "size"], ["margin"]),
        # torchvision's centre crop rounds half a pixel to even, and so does Round.
        helper.make_node("Cast", ["margin"], ["margin_float"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["margin_float", "half"], ["start_float"]),
        helper.make_node("Round", ["start_float"], ["start_even"]),
        helper.make_node("Cast", ["start_even"], ["start"], to=TensorProto.INT64),
        helper.make_node("Add", ["start", "size"], ["stop"]),
        helper.make_node("Slice", ["whole", "start", "stop", "spatial"], ["middle"]),
    ]


def _normalise() -> list[onnx.NodeProto]:
    """From `middle` to `samples`."""
    return [
        # A cubic kernel overshoots; Pillow's 8-bit pixels cannot.
        helper.make_node("Clip", ["middle", "lowest", "highest"], ["clipped"]),
        helper.make_node("Sub", ["clipped", "offset"], ["centred"]),
        helper.make_node("Div", ["centred", "range"], ["samples"]),
    ]
