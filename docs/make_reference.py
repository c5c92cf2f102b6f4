"""Writes docs/recipe.md from the schema: `python docs/make_reference.py`. A test holds them equal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from doratune.recipe import Recipe, shipped_recipes

HEAD = """# Recipe reference

Generated from `src/doratune/recipe/schema.py` by `python docs/make_reference.py`.

A recipe is one YAML file. `doratune check RECIPE` reports every problem of it at once, by line,
before anything runs. `name`, `model.source` and `data.source` must be given; everything else has a
default. The run folder keeps the recipe with all defaults filled in.
"""

LIMITS = {
    "minimum": "at least",
    "exclusiveMinimum": "above",
    "maximum": "at most",
    "exclusiveMaximum": "below",
}


# Said once in the schema, of the type that the gates share.
SHARED = {
    "action": "`report` counts and names what is found, `drop` leaves it out, `fail` stops the stage."
}


def reference() -> str:
    """The whole page."""
    schema = Recipe.model_json_schema()
    shipped = "\n".join(f"- `{name}`: {about}" for name, about in shipped_recipes().items())
    parts = [HEAD, f"Shipped recipes, copied by `doratune init NAME`:\n\n{shipped}\n"]
    parts += sections("top level", schema, schema["$defs"])
    return "\n".join(parts)


def sections(name: str, section: dict[str, Any], defs: dict[str, Any]) -> list[str]:
    """The page's part on a section, and those on the sections in it."""
    about = "" if name == "top level" else one_line(section["description"]) + "\n"
    inner = {key: found for key, p in section["properties"].items() if (found := reference_in(p))}
    # A section that is always there, and no list, is shown by its own table only.
    plain = {k: p for k, p in section["properties"].items() if "$ref" not in p}
    rows = [table(plain, section.get("required", []))] if plain else []
    parts = ["\n".join(filter(None, [f"## {name}\n", about, *rows]))]
    for key, found in inner.items():
        path = key if name == "top level" else f"{name}.{key}"
        title = f"{path} as a list" if is_list(section["properties"][key]) else path
        parts += sections(title, defs[found.rpartition("/")[2]], defs)
    return parts


def branches(field: dict[str, Any]) -> list[dict[str, Any]]:
    """A field that may be one of several kinds as these."""
    return [field, *field.get("oneOf", []), *field.get("anyOf", [])]


def is_list(field: dict[str, Any]) -> bool:
    """Whether a field holds a list of sections."""
    return any("$ref" in branch.get("items", {}) for branch in branches(field))


def reference_in(field: dict[str, Any]) -> str | None:
    """Where the section that a field holds, itself or in a list, is defined."""
    found = (
        branch.get("$ref") or branch.get("items", {}).get("$ref") for branch in branches(field)
    )
    return next(filter(None, found), None)


def table(properties: dict[str, Any], required: list[str]) -> str:
    rows = ["| key | values | default | meaning |", "|---|---|---|---|"]
    for name, field in properties.items():
        default = "required" if name in required else f"`{json.dumps(field.get('default'))}`"
        meaning = one_line(field.get("description") or SHARED.get(name, ""))
        rows.append(f"| `{name}` | {values(field)} | {default} | {meaning} |")
    return "\n".join(rows) + "\n"


def values(field: dict[str, Any]) -> str:
    """What may stand there, in words."""
    if kinds := field.get("anyOf") or field.get("oneOf"):
        return ", or ".join(values(kind) for kind in kinds)
    if "$ref" in field:
        return "section"
    if "const" in field:
        return f"`{field['const']}`"
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    kind = {"array": "list", "object": "mapping"}.get(field["type"], field["type"])
    return " ".join(
        [kind, *(f"{text} {field[key]}" for key, text in LIMITS.items() if key in field)]
    )


def one_line(text: str) -> str:
    return " ".join(text.replace("``", "`").split())


if __name__ == "__main__":
    Path(__file__).with_name("recipe.md").write_text(reference())
