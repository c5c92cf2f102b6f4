"""From a recipe to a trained adapter, with TRL's SFTTrainer."""

from doratune.train.plan import plan_recipe
from doratune.train.stage import train_model

__all__ = ["plan_recipe", "train_model"]
