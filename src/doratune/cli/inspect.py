"""`doratune inspect`: what an adapter is, layer by layer, and whether it would be refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from doratune.errors import AdapterError
from doratune.progress import visible
from doratune.record.adapters import AdapterFacts, LayerFacts

_SHOWN = 20
"""Problems listed on the terminal; --json has all."""
_KIND = {"dora": "DoRA", "lora": "LoRA", "full": "full fine-tuning"}


def inspect(
    adapter: Annotated[Path, typer.Argument(help="An adapter folder, or a run folder.")],
    base: Annotated[
        str | None,
        typer.Option(help="Base model to compare it with: a folder, or as in a recipe."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Say what an adapter is, layer by layer; exit code 6 if it would be refused."""
    from doratune.adapter.describe import describe  # imports torch
    from doratune.base import resolve_base

    folder = adapter / "adapter" if (adapter / "adapter").is_dir() else adapter
    facts = describe(folder, resolve_base(base) if base else None)
    if json:
        typer.echo(facts.model_dump_json(indent=2))
    else:
        _show(facts, Console())
    if facts.problems:
        number = f"{len(facts.problems)} problems" if len(facts.problems) > 1 else "1 problem"
        raise AdapterError(f"{folder} would be refused: {number}, as printed.")


def _show(facts: AdapterFacts, console: Console) -> None:
    def say(text: str, style: str = "") -> None:
        console.print(Text(visible(text), style=style))

    kind = _KIND[facts.method] if facts.method else "no adapter"
    size = f", {facts.num_parameters:,} parameters ({facts.num_bytes / 1e6:,.3g} MB)"
    layers = f", {len(facts.layers)} layers{size}" if facts.layers else ""
    say(f"{facts.path}: {kind}{layers}", "bold")
    say(f"Base: {facts.base or 'not named'}{_origin(facts)}")
    if facts.compared_with:
        say(f"Compared with {facts.compared_with}: {_belonging(facts)}")
    if facts.saved_modules:
        say(f"Whole tensors: {', '.join(facts.saved_modules)}")
    if facts.layers:
        _show_layers(facts.layers, say, console)
    for note in facts.notes:
        say(f"Note: {note}")
    for problem in facts.problems[:_SHOWN]:
        say(f"Problem: {problem}", "red")
    if len(facts.problems) > _SHOWN:
        say(f"... and {len(facts.problems) - _SHOWN} more; --json prints all.", "red")


def _origin(facts: AdapterFacts) -> str:
    origin = facts.origin
    if origin is None:
        return ""
    parents = f", made from {', '.join(origin.parents)}" if origin.parents else ""
    figures = ", ".join(f"{name} {value:.4g}" for name, value in origin.figures.items())
    return (
        f", fingerprint {origin.base_fingerprint[:16]}. Trained by doratune {origin.doratune} on data "
        f"{origin.data_digest[:16]} with recipe {origin.recipe_digest[:16]}{parents}"
        f"{'; ' + figures if figures else ''}"
    )


def _belonging(facts: AdapterFacts) -> str:
    words = {
        "fingerprint": "it was trained on exactly these weights",
        "magnitudes": "its magnitudes fit these weights",
        "no evidence": "nothing tells whether it was trained on it",
        None: "it does not belong to it",
    }[None if facts.problems else facts.belongs]
    far = "" if facts.distance is None else f" (distance {facts.distance:.3g}, of others about 1.4)"
    return f"{words}{far}"


def _show_layers(layers: list[LayerFacts], say: Callable[..., None], console: Console) -> None:
    """A table with those columns in which layers differ; what all share goes into one line."""
    cells: dict[str, list[str]] = {
        "kind": [_KIND[layer.method] for layer in layers],
        "r": [str(layer.r) for layer in layers],
        "experts": [str(layer.num_experts) for layer in layers],
        "scaling": ["?" if n.scaling is None else f"{n.scaling:.4g}" for n in layers],
        "dtype": [layer.dtype for layer in layers],
        "magnitudes": [layer.magnitude_dtype or "none" for layer in layers],
    }
    if set(cells["experts"]) == {"1"}:
        del cells["experts"]
    shared = [f"{name} {row[0]}" for name, row in cells.items() if len(set(row)) == 1]
    prefix = _common_start([layer.layer for layer in layers])
    say(f"All layers: {', '.join(shared)}{'; below ' + prefix if prefix else ''}")
    table = Table(box=None, pad_edge=False)
    table.add_column("layer", no_wrap=True)
    own = [name for name, row in cells.items() if len(set(row)) > 1]
    for name in (*own, "out x in"):
        table.add_column(name, justify="right", no_wrap=True)
    ranges = {
        "m": [(layer.magnitude_min, layer.magnitude_max) for layer in layers],
        "m / ‖W‖": [(layer.ratio_min, layer.ratio_max) for layer in layers],
    }
    shown = {name: row for name, row in ranges.items() if any(low is not None for low, _ in row)}
    for name in shown:
        table.add_column(name, justify="right", no_wrap=True)
    for index, layer in enumerate(layers):
        name = layer.layer.removeprefix(f"{prefix}.") if prefix else layer.layer
        table.add_row(
            Text(visible(name)),
            *(cells[column][index] for column in own),
            f"{layer.out_features} x {layer.in_features}",
            *(_range(*row[index]) for row in shown.values()),
        )
    console.print(table)


def _common_start(names: list[str]) -> str:
    """The modules that all names begin with."""
    common: list[str] = []
    for parts in zip(*(name.split(".")[:-1] for name in names), strict=False):
        if len(set(parts)) > 1:
            break
        common.append(parts[0])
    return ".".join(common)


def _range(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"{low:.4g} to {high:.4g}"
