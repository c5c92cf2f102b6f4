"""How other trainers write adapters, recognised by their keys.

    format          A, B                                 magnitude, and its shape         scaling
    PEFT            lora_A.weight, lora_B.weight         lora_magnitude_vector (O,)       config
    PEFT in memory  ... with .default before .weight     with .default (.weight)          config
    LyCORIS, kohya  lora_down.weight, lora_up.weight     dora_scale (O, 1) or (1, I)      alpha / r
    ai-toolkit      either                               magnitude (O,)                   not stored

O output features, I input features. PEFT, ai-toolkit and LyCORIS with ``wd_on_output`` take one
magnitude for every output feature: norms of the rows of ``W + scaling B A``. LyCORIS without it takes
one for every input feature: norms of the columns. Then ``W' = (W + scaling B A) diag(m / n)``, which no
DoRA of PEFT can be: its scale is on the other side.
"""

from __future__ import annotations

from collections.abc import Iterable

MAGNITUDES = {
    "dora_scale": "LyCORIS or kohya (dora_scale)",
    "magnitude": "ai-toolkit (magnitude)",
    "lora_magnitude_vector.default": "PEFT's names in memory (lora_magnitude_vector.default)",
    "lora_magnitude_vector.default.weight": "PEFT's names in memory (lora_magnitude_vector.default)",
    "lora_magnitude_vector": "PEFT",
    "lora_magnitude_vector.weight": "PEFT",
}
FACTORS = {
    "lora_down.weight": ("A", "LyCORIS or kohya (lora_down)"),
    "lora_up.weight": ("B", "LyCORIS or kohya (lora_up)"),
    "lora_A.default.weight": ("A", "PEFT's names in memory (lora_A.default)"),
    "lora_B.default.weight": ("B", "PEFT's names in memory (lora_B.default)"),
    "lora_A.weight": ("A", "PEFT"),
    "lora_B.weight": ("B", "PEFT"),
}
ENDS = (*MAGNITUDES, *FACTORS, "alpha")


def recognise(keys: Iterable[str]) -> str | None:
    """The format of another trainer that these keys of a safetensors file belong to, if any."""
    for key in keys:
        _, end = split_key(key)
        form = MAGNITUDES.get(end) or FACTORS.get(end, ("", "PEFT"))[1]
        if form != "PEFT":
            return form
    return None


def split_key(key: str) -> tuple[str, str]:
    """Module and ending of a key; the ending is empty where none is known."""
    for end in sorted(ENDS, key=len, reverse=True):
        if key.endswith(f".{end}"):
            return key.removesuffix(f".{end}"), end
    return key, ""
