"""What keeps a user's template small: how much one rendering may make, and what counts towards it.

A template has no variables and calls nothing, so its values are made by operators, filters and loops. Each of them
spends from one allowance per rendering, before it makes anything large.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from jinja2 import TemplateRuntimeError, pass_context
from jinja2.runtime import Context

MAX_WORK = 4_000_000
MAX_ITEMS = 4_096
# No template can write this name, so none can reach the allowance.
ALLOWANCE = "the allowance"


class Allowance:
    """How much, in characters and list items, a rendering may still make."""

    def __init__(self) -> None:
        self._left = MAX_WORK

    def spend(self, amount: int) -> None:
        """Takes from the allowance; raises TemplateRuntimeError when it is used up."""
        self._left -= amount
        if self._left < 0:
            raise TemplateRuntimeError(f"it makes more than {MAX_WORK} characters")

    def spend_for(self, *values: object) -> None:
        """Takes what `values` hold, without walking further than the allowance reaches."""
        if len(values) == 1 and isinstance(values[0], str):
            self.spend(len(values[0]))
            return
        waiting: list[object] = list(values)
        while waiting:
            value = waiting.pop()
            if isinstance(value, Mapping):
                self.spend(len(value) + 1)
                waiting += [*value.keys(), *value.values()]
            elif isinstance(value, list | tuple):
                self.spend(len(value) + 1)
                waiting += value
            else:
                self.spend(len(value) if isinstance(value, str) else 1)


def allowance(context: Context) -> Allowance:
    """The allowance of the rendering that `context` belongs to."""
    found: Allowance = context[ALLOWANCE]
    return found


def bounded(rule: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that spends for what it is given and what it makes."""

    asks = getattr(getattr(rule, "jinja_pass_arg", None), "name", "")

    @pass_context
    def filter_(context: Context, *values: Any, **named: Any) -> Any:
        left = allowance(context)
        left.spend_for(*values, *named.values())
        first = {"environment": (context.environment,), "eval_context": (context.eval_ctx,)}.get(asks, ())
        made = rule(*first, *values, **named)
        # Some filters give iterators; a list can be counted.
        made = list(made) if not isinstance(made, str | Mapping) and isinstance(made, Iterable) else made
        left.spend_for(made)
        return made

    return filter_


@pass_context
def replace(context: Context, text: object, old: object, new: object) -> str:
    """`text` with every `old` replaced; spends for the result before it is made."""
    source, target = str(text), str(old)
    allowance(context).spend(len(source) + source.count(target) * len(str(new)))
    return source.replace(target, str(new))


@pass_context
def join(context: Context, items: Iterable[object], separator: object = "") -> str:
    """`items` as one text; spends for the result before it is made."""
    texts, between = [], str(separator)
    for item in items:
        texts.append(str(item))
        allowance(context).spend(len(texts[-1]) + len(between))
    return between.join(texts)


@pass_context
def concatenated(context: Context, parts: list[object]) -> str:
    """What `~` makes of its operands."""
    allowance(context).spend_for(parts)
    return "".join(str(part) for part in parts)


@pass_context
def items_of(context: Context, value: object) -> list[object]:
    """What a loop goes over."""
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise TemplateRuntimeError("a loop needs a list")
    if isinstance(value, list | tuple | Mapping) and len(value) > MAX_ITEMS:
        raise TemplateRuntimeError(f"a loop goes over at most {MAX_ITEMS} items")
    allowance(context).spend_for(value)
    return list(value)
