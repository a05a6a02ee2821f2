"""The one place where a cell becomes text, for training, evaluation and serving alike.

A survey question becomes a chat by a wording (``wordings``): by default a system turn that names the group
(none for ``everyone``) and a user turn with the question and its options. A chat becomes tokens by the
model's own template (``chat``).
"""

from valuealign.prompts.chat import (
    PLAIN_TEMPLATE,
    ChatTokenizer,
    Turn,
    answer_opening,
    answer_text,
    completion_ids,
    prompt_ids,
    prompt_text,
    render,
    turn,
)
from valuealign.prompts.reading import Reading
from valuealign.prompts.wordings import (
    BUILT_IN,
    DEFAULT,
    Context,
    Statement,
    Template,
    Wordings,
    ask,
    evaluate_templates,
    survey_messages,
    train_templates,
    wordings,
)

__all__ = [
    "DEFAULT",
    "BUILT_IN",
    "PLAIN_TEMPLATE",
    "Reading",
    "ChatTokenizer",
    "Context",
    "Statement",
    "Template",
    "Turn",
    "Wordings",
    "answer_opening",
    "answer_text",
    "ask",
    "completion_ids",
    "evaluate_templates",
    "prompt_ids",
    "prompt_text",
    "render",
    "survey_messages",
    "train_templates",
    "turn",
    "wordings",
]
