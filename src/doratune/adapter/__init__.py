"""Where PEFT meets the ops: fast layers in a PEFT model, and adapters read without losing anything."""

from doratune.adapter.enable import FastDoraSummary, disable_fast_dora, enable_fast_dora
from doratune.adapter.files import AdapterWeights, LayerDelta
from doratune.adapter.inspect import LayerState, layer_states
from doratune.adapter.load import load_adapter
from doratune.adapter.read import read_adapter

__all__ = [
    "AdapterWeights",
    "FastDoraSummary",
    "LayerDelta",
    "LayerState",
    "disable_fast_dora",
    "enable_fast_dora",
    "layer_states",
    "load_adapter",
    "read_adapter",
]
