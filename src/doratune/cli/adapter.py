"""`doratune adapter`: versions of adapters in a folder, and adapters of other trainers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from doratune.progress import visible
from doratune.record.adapters import StoredAdapter

adapter = typer.Typer(
    no_args_is_help=True, help="Keep versions of adapters, and convert those of other trainers."
)

STORE = Path("adapters")
Store = Annotated[Path, typer.Option(help="Folder in which adapters are kept.")]
Named = Annotated[str, typer.Argument(metavar="NAME[@VERSION]", help="Such as contracts@2.")]
Base = Annotated[str, typer.Option(help="Base model: a folder, or as in a recipe.")]


@adapter.command("add")
def add(
    source: Annotated[Path, typer.Argument(help="A run folder, or an adapter folder.")],
    name: Annotated[str, typer.Option(help="What to call it.")],
    parent: Annotated[
        list[str] | None, typer.Option(help="A version it was made from; may be repeated.")
    ] = None,
    store: Store = STORE,
) -> None:
    """Copy an adapter in as the next version of a name, with the figures of its run."""
    from doratune.adapter.store import AdapterStore  # imports torch

    added = AdapterStore(store).add(source, name, parent or [])
    _say(f"Added {name}@{added.version} at {AdapterStore(store).folder(name, added.version)}")


@adapter.command("list")
def list_adapters(store: Store = STORE) -> None:
    """List all versions; an arrow marks the attached one."""
    from doratune.adapter.store import AdapterStore

    stored = AdapterStore(store).adapters()
    if not stored:
        _say(f"{store} holds no adapters. Add one with: doratune adapter add RUN --name NAME")
        return
    Console().print(_table(stored))


@adapter.command("attach")
def attach(
    adapter: Named,
    base: Base,
    force: Annotated[
        bool,
        typer.Option("--force", help="Also on a base it was not trained on; this is written down."),
    ] = False,
    store: Store = STORE,
) -> None:
    """Make a version the one in use, the newest if none is named; only on its own base."""
    from doratune.adapter.store import AdapterStore
    from doratune.base import resolve_base

    name, version = AdapterStore.parse(adapter)
    event = AdapterStore(store).attach(name, version, resolve_base(base), base, force)
    assert event.version is not None
    _say(f"Attached {name}@{event.version}: {AdapterStore(store).folder(name, event.version)}")
    if event.forced:
        _say(f"Forced, and written into the record. What speaks against it: {event.forced}")


@adapter.command("detach")
def detach(name: Annotated[str, typer.Argument(help="The adapter.")], store: Store = STORE) -> None:
    """Leave no version of an adapter in use."""
    from doratune.adapter.store import AdapterStore

    AdapterStore(store).detach(name)
    _say(f"Detached {name}. `doratune adapter rollback {name}` brings it back.")


@adapter.command("rollback")
def rollback(
    name: Annotated[str, typer.Argument(help="The adapter.")], store: Store = STORE
) -> None:
    """Bring back what was attached before."""
    from doratune.adapter.store import AdapterStore

    event = AdapterStore(store).rollback(name)
    if event.version is None:
        _say(f"No version of {name} is attached now, as before.")
    else:
        _say(f"Attached {name}@{event.version}: {AdapterStore(store).folder(name, event.version)}")


@adapter.command("convert")
def convert(
    source: Annotated[Path, typer.Argument(help="A .safetensors file, or a folder with one.")],
    target: Annotated[Path, typer.Argument(help="Folder to write, in PEFT's format.")],
    base: Base,
    alpha: Annotated[
        float | None, typer.Option(min=0, help="Alpha of the training, where the file has none.")
    ] = None,
) -> None:
    """Convert an adapter of LyCORIS, kohya, ai-toolkit or an older PEFT; nothing is guessed."""
    from doratune.adapter.convert import convert_adapter
    from doratune.base import resolve_base

    done = convert_adapter(source, resolve_base(base), base, target, alpha)
    layers = f"{done.num_dora} DoRA layers" if done.num_dora else f"{done.num_lora} LoRA layers"
    _say(f"Read {done.form}: {layers}, {_counts('r', done.ranks)}, {_counts('alpha', done.alphas)}")
    _say(f"Wrote {target}. See it with: doratune inspect {target} --base {base}")


@adapter.command("merge")
def merge(
    base: Annotated[str, typer.Argument(help="Base model: a folder, or as in a recipe.")],
    adapters: Annotated[
        list[str],
        typer.Argument(
            metavar="ADAPTER[=WEIGHT]...", help="Adapter folders, such as contracts=0.5."
        ),
    ],
    into: Annotated[Path, typer.Option(help="Folder to write.")],
    in_turn: Annotated[
        bool,
        typer.Option("--in-turn", help="Each was trained on the model that those before it make."),
    ] = False,
    dtype: Annotated[
        str, typer.Option(help="auto (as the base), float32, bfloat16 or float16.")
    ] = "auto",
) -> None:
    """Merge adapters into one model: each changes the base by its weight times what it changes alone."""
    from doratune.base import resolve_base
    from doratune.ship.merging.several import (
        merge_in_turn,
        merge_weighted,
        merged_dtype,
        parse_weighted,
    )

    base_path = resolve_base(base)
    parsed = [parse_weighted(text, in_turn) for text in adapters]
    dtype = merged_dtype(base_path, dtype)
    how = (
        "in turn" if in_turn else "with weights " + ", ".join(f"{each.weight:g}" for each in parsed)
    )
    _say(f"Merging {len(parsed)} adapters {how} into {base}, in {dtype}.")
    if in_turn:
        merged = merge_in_turn(base_path, [each.path for each in parsed], into, dtype)
    else:
        merged = merge_weighted(base_path, parsed, into, dtype)
    changed, copied = merged.num_merged_tensors, merged.num_copied_tensors
    _say(f"Wrote {into}: {changed} tensors changed, {copied} as before.")


def _table(stored: list[StoredAdapter]) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in ("", "version", "method", "base", "figures", "added"):
        table.add_column(column)
    for each in stored:
        attached = each.attached
        for version in each.versions:
            here = attached is not None and attached.version == version.version
            figures = [f"{name} {value:.4g}" for name, value in version.figures.items()]
            row = (
                f"{each.name}@{version.version}",
                version.method,
                version.base or "?",
                "\n".join(figures),
                version.added_at[:10],
            )
            mark = "" if not here else "forced" if attached and attached.forced else "->"
            table.add_row(mark, *(Text(visible(cell)) for cell in row))
    return table


def _counts(name: str, counts: dict[int, int] | dict[float, int]) -> str:
    if len(counts) == 1:
        return f"{name} {next(iter(counts)):g}"
    return f"{name} " + ", ".join(f"{value:g} ({n} layers)" for value, n in counts.items())


def _say(text: str) -> None:
    Console(soft_wrap=True).print(Text(visible(text)))
