"""Recipes: one YAML file says what a run does."""

from doratune.recipe.load import load_recipe, write_recipe
from doratune.recipe.schema import Recipe
from doratune.recipe.shelf import copy_recipe, shipped_recipe, shipped_recipes

__all__ = [
    "Recipe",
    "copy_recipe",
    "load_recipe",
    "shipped_recipe",
    "shipped_recipes",
    "write_recipe",
]
