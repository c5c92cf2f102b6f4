"""One example as the model sees it, for the eye."""

from __future__ import annotations

from itertools import groupby

from rich.text import Text

from doratune.data.render import IGNORED, Rendered, Renderer
from doratune.data.render.control_tokens import control_tokens
from doratune.progress import visible
from doratune.record.schemas import Example


def show(example: Example, renderer: Renderer) -> Text:
    """The exact string of an example, control tokens written out, and what of it is learnt.

    Each stretch of tokens stands under a line that names it, ``masked`` or ``learnt``, so that the
    two can be told apart without colours too; masked text is dimmed, learnt text is bold. One line
    break follows every stretch: an empty line before the next one belongs to the text. For
    preference data the rejected answer follows.

    Raises:
        DataError: The template cannot render the conversation.
        ConfigError: The tokenizer has no template.
    """
    text = Text.assemble((f"{example.id} {example.place}\n", "bold cyan"))
    rendered = renderer.example(example.messages, example.tools)
    text.append_text(_stretches(rendered, renderer))
    if example.rejected is not None:
        text.append("rejected, in place of the last turn\n", style="bold cyan")
        other = renderer.example([*example.prompt, *example.rejected], example.tools)
        text.append_text(_stretches(other, renderer))
    spelt = control_tokens(" ".join(m.content for m in example.messages), renderer.tokenizer)
    if spelt:
        text.append(f"The turns themselves spell out {', '.join(spelt)}.\n", style="bold red")
    return text


def _stretches(rendered: Rendered, renderer: Renderer) -> Text:
    text = Text()
    ids, shown = rendered.input_ids, ""
    at = 0
    for learnt, group in groupby(rendered.labels, key=lambda label: label != IGNORED):
        size = len(list(group))
        at += size
        name, style = ("learnt", "bold green") if learnt else ("masked", "dim")
        text.append(f"── {name}, {size:,} {'token' if size == 1 else 'tokens'}\n", style="cyan")
        # All tokens so far, since some tokenizers drop the space before the first one.
        so_far = renderer.tokenizer.decode(ids[:at], clean_up_tokenization_spaces=False)
        text.append(visible(so_far[len(shown) :]), style=style)
        text.append("\n")
        shown = so_far
    learnt_tokens = sum(label != IGNORED for label in rendered.labels)
    text.append(f"── {learnt_tokens:,} of {len(ids):,} tokens are learnt\n", style="cyan")
    return text
