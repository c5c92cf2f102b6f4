"""Conversations to text and token ids, with what is learnt marked: one code for every stage."""

from doratune.data.render.renderer import IGNORED, Rendered, Renderer

__all__ = ["IGNORED", "Rendered", "Renderer"]
