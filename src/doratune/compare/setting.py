"""Everything of a comparison that is fixed before its first job."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from doratune.compare.arms import arm_recipe, learning_rates
from doratune.compare.budget import ArmCost, plan_arm
from doratune.compare.sweep import ArmPlan
from doratune.recipe import Recipe
from doratune.recipe.comparison import TrainedArm
from doratune.record.schemas import DataFile


class Setting(NamedTuple):
    """The arms."""

    data: DataFile
    recipes: dict[TrainedArm, Recipe]
    costs: list[ArmCost]

    @property
    def plans(self) -> list[ArmPlan]:
        """What each arm may spend."""
        return [cost.plan for cost in self.costs]


def make_setting(recipe: Recipe, base_path: Path, data: DataFile) -> Setting:
    """The recipes and plans of all arms.

    Raises:
        ModelError: A target module matches no layer of the base.
    """
    recipes: dict[TrainedArm, Recipe] = {}
    costs = []
    for arm in recipe.compare.arms:
        own = recipes[arm] = arm_recipe(recipe, arm, base_path)
        train = plan_arm(own, base_path, data)
        plan = ArmPlan(
            arm=arm,
            learning_rates=tuple(learning_rates(recipe, arm)),
            seeds=tuple(recipe.seed + n for n in range(recipe.compare.seeds)),
            num_steps=train.num_steps,
            sweep_share=recipe.compare.sweep_share,
        )
        costs.append(ArmCost(plan, train))
    return Setting(data, recipes, costs)
