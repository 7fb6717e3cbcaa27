"""What a text model reads when it is asked: the prompt, through its tokenizer's chat template if there is one."""

from __future__ import annotations

from typing import Any

from nexus_core.errors import ModelError


def prompt_text(tokenizer: Any, prompt: str, where: str) -> str:
    """The prompt as this tokenizer's checkpoint wants it; `where` is the checkpoint's name in messages."""
    if not getattr(tokenizer, "chat_template", None):
        return prompt
    from jinja2 import TemplateError

    messages = [{"role": "user", "content": prompt}]
    try:
        text: str = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    except (TemplateError, ArithmeticError, LookupError, AttributeError, TypeError, ValueError) as error:
        raise ModelError(
            f"{where}: its chat template cannot be rendered: {error}",
            "correct chat_template.jinja, or the chat_template in tokenizer_config.json",
        ) from error
    return text
