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


def reference() -> str:
    """The whole page."""
    schema = Recipe.model_json_schema()
    shipped = "\n".join(f"- `{name}`: {about}" for name, about in shipped_recipes().items())
    parts = [HEAD, f"Shipped recipes, copied by `doratune init NAME`:\n\n{shipped}\n"]
    sections = {k: p["$ref"] for k, p in schema["properties"].items() if "$ref" in p}
    top = {k: p for k, p in schema["properties"].items() if k not in sections}
    parts.append("## top level\n\n" + table(top, schema["required"]))
    for name, reference in sections.items():
        section = schema["$defs"][reference.rpartition("/")[2]]
        rows = table(section["properties"], section.get("required", []))
        parts.append(f"## {name}\n\n{one_line(section['description'])}\n\n{rows}")
    return "\n".join(parts)


def table(properties: dict[str, Any], required: list[str]) -> str:
    rows = ["| key | values | default | meaning |", "|---|---|---|---|"]
    for name, field in properties.items():
        default = "required" if name in required else f"`{json.dumps(field.get('default'))}`"
        meaning = one_line(field.get("description", ""))
        rows.append(f"| `{name}` | {values(field)} | {default} | {meaning} |")
    return "\n".join(rows) + "\n"


def values(field: dict[str, Any]) -> str:
    """What may stand there, in words."""
    if "anyOf" in field:
        return ", or ".join(values(branch) for branch in field["anyOf"])
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
