"""Chat templates of the kinds that real bases have."""

from __future__ import annotations

# Keeps thinking of the last turn only, as Qwen3's template does.
THINKING = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if loop.last and m.role == 'assistant' %}<think>\n\n</think>\n\n{% endif %}"
    "{{ m.content | trim }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

# Drops the thoughts of all answers but the last, and writes those in lines of their own.
FORGETTING = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% set thought, _, said = m.content.partition('</think>') %}"
    "{% if not said %}{{ m.content }}"
    "{% elif loop.last %}<think>\n{{ thought[7:] | trim }}\n</think>\n\n{{ said | trim }}"
    "{% else %}{{ said | trim }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
