"""What quantising the merged model cost, layer by layer."""

from __future__ import annotations

from typing import Literal

from doratune.record.schemas import Record

QuantizedType = Literal["int8", "int4", "nf4"]


class CalibrationData(Record):
    """Training examples, rendered as in training, by which rounding was tuned."""

    num_examples: int
    num_tokens: int
    digest: str
    """SHA-256 over the token ids."""


class ClippedWeight(Record):
    """A weight that lies beyond the levels of its quantiser."""

    layer: str
    row: int
    """Output feature."""
    weight: float
    quantized: float


class LayerQuantization(Record):
    """One layer after quantising, dequantised again, against the merged weight W'."""

    layer: str
    weight_error: float
    """``‖Ŵ - W'‖ / ‖W'‖``, Frobenius norms."""
    norm_error: float
    """``|‖Ŵ‖ / m - 1|`` of the output feature where it is most of its limit, with m the adapter's
    magnitude, or the norm of W' in layers without one."""
    norm_limit: float
    """What the steps of the quantiser allow there."""
    num_rows: int
    num_rows_beyond: int
    """Output features beyond their limit: magnitudes that were lost."""
    num_weights: int
    num_clipped: int
    """Weights that are off by more than a step, which rounding up or down never is."""


class Quantized(Record):
    """One folder under ``export/quantized/``."""

    type: QuantizedType
    library: str
    """Name and version."""
    group_size: int | None
    """Weights that share a scale; None for all of an output feature."""
    num_bytes: int
    """Of all weights, those left in 16 or 32 bits among them."""
    num_bytes_merged: int
    calibration: CalibrationData | None = None
    """None where values are rounded to the nearest level."""
    weight_error: float
    """Over all quantised layers, taken as one matrix."""
    layers: list[LayerQuantization]
    unquantized: list[str] = []
    """Linear layers that the library left as they were, such as those of odd shapes."""
    clipped: ClippedWeight | None = None
    """The weight that lost most by clipping."""
