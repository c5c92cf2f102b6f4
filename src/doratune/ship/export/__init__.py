"""The forms in which a trained model leaves doratune, each with figures on what it cost."""

from doratune.ship.export.stage import export_forms

__all__ = ["export_forms"]
