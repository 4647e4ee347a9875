"""Templates: YAML text in which every `{{ expression }}` becomes a JSON value.

So a value can never be more than a value: quotes, newlines, braces and YAML syntax in it stay data, and an author
cannot forget a filter. An expression therefore stands for a whole value (`- {{ name }}`), never for a part of one
(`- --name={{ name }}` is refused when the template is loaded; write `- {{ "--name=" ~ name }}`). Templates run in a
sandbox and see nothing but the names they are given; an undefined name is an error.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import yaml
from jinja2 import StrictUndefined, Template, TemplateError, TemplateSyntaxError, Undefined, nodes, pass_context
from jinja2.exceptions import SecurityError
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from tandem.api.problems import refuse
from tandem.rendering.bounds import ALLOWANCE, Allowance, allowance, bounded, concatenated, items_of, join, replace
from tandem.rendering.text import to_json

MAX_TEMPLATE_CHARACTERS = 65_536
MAX_DEPTH = 32
_FILTERS = frozenset(
    (
        *("default", "d", "length", "join", "lower", "upper", "replace", "trim", "first", "last", "sort", "unique"),
        *("list", "string", "int", "items", "dictsort", "min", "max", "abs"),
    )
)
# Filters that no template can name.
_CONCATENATED, _ITEMS = "what ~ makes", "what a loop goes over"
# On its line, only dashes and a key may stand before an expression, and nothing after it.
_BEFORE_VALUE = re.compile(r"(^|\n) *((- +)+([A-Za-z_][\w.-]*: +)?|[A-Za-z_][\w.-]*: +)$")
_AFTER_VALUE = re.compile(r" *(\n|$)")
_BLOCK_BEGIN = re.compile("(?:^|(?<=[\n\r\x85\u2028\u2029]))[ \t?:-]+")


class _Environment(ImmutableSandboxedEnvironment):
    """The sandbox, without what could take unbounded time or memory."""

    intercepted_binops = frozenset(["+", "*", "**", "%"])

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "+":
            allowance(context).spend_for(left, right)
            return super().call_binop(context, operator, left, right)
        if operator != "%" and not (isinstance(left, int | float) and isinstance(right, int | float)):
            raise SecurityError(f"{operator} is for numbers only")
        if operator == "**" or isinstance(left, str):
            raise SecurityError(f"{operator} is not allowed in templates")
        return super().call_binop(context, operator, left, right)


class _Bounds(NodeTransformer):
    """Lets `~` and loops spend from the allowance: there is no hook for them."""

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        parts = nodes.List(node.nodes, lineno=node.lineno)
        return nodes.Filter(parts, _CONCATENATED, [], [], None, None, lineno=node.lineno)

    def visit_For(self, node: nodes.For) -> nodes.Node:
        self.generic_visit(node)
        node.iter = nodes.Filter(node.iter, _ITEMS, [], [], None, None, lineno=node.lineno)
        return node


def template_environment() -> ImmutableSandboxedEnvironment:
    """The environment that all templates are compiled in; keeps no state between renderings."""
    environment = _Environment(
        undefined=StrictUndefined, finalize=_finalize, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.globals.clear()
    environment.filters = {name: bounded(rule) for name, rule in environment.filters.items() if name in _FILTERS}
    environment.filters |= {"to_json": bounded(to_json), "replace": replace, "join": join}
    environment.filters |= {_CONCATENATED: concatenated, _ITEMS: items_of}
    return environment


@dataclass(frozen=True, slots=True)
class YamlTemplate:
    """A compiled template. `location` names it in messages (`templates/torch/config.1.yml.j2`)."""

    location: str
    template: Template

    def render(self, names: Mapping[str, object]) -> tuple[str, object]:
        """Text and what the text says as YAML; raises `Refused` with the template's line."""
        text = self._text(names)
        return text, _parse(text, self.location, yaml.load)

    def text(self, names: Mapping[str, object]) -> str:
        """The text, found to be YAML; raises `Refused` with the template's line."""
        text = self._text(names)
        _parse(text, self.location, yaml.compose)  # a third of the time of making values of it
        return text

    def _text(self, names: Mapping[str, object]) -> str:
        try:
            return self.template.render({**names, ALLOWANCE: Allowance()})
        except (TemplateError, TypeError, ValueError, ArithmeticError, AttributeError, LookupError) as error:
            line = _line_of(error, self.location)
            where = f"{self.location}:{line}" if line else self.location
            raise refuse(
                where, None, f"the template fails: {str(error).rstrip('.')}", "Correct it or use the shipped one."
            ) from error


def compile_template(environment: ImmutableSandboxedEnvironment, *, location: str, source: str) -> YamlTemplate:
    """Compiles `source`; raises `Refused` with the line of a mistake or of an expression that is a part of a value."""
    fix = "Correct it or use the shipped one."
    compiled = compile_checked(environment, location=location, source=source, check=_checked, fix=fix)
    return YamlTemplate(location, compiled)


def compile_checked(
    environment: ImmutableSandboxedEnvironment,
    *,
    location: str,
    source: str,
    check: Callable[[nodes.Template, str], nodes.Template],
    fix: str,
) -> Template:
    """Compiles what `check(tree, location)` gives of `source`; raises `Refused`, for a malformed one with `fix`."""
    if len(source) > MAX_TEMPLATE_CHARACTERS:
        longest = f"Keep it below {MAX_TEMPLATE_CHARACTERS} characters."
        raise refuse(location, len(source), "the template is too long", longest)
    try:
        tree = check(environment.parse(source, location, location), location)
        code = environment.compile(tree, location, location)
    except TemplateSyntaxError as error:
        where = f"{location}:{error.lineno}"
        raise refuse(where, None, f"malformed template: {(error.message or '').rstrip('.')}", fix) from None
    except RecursionError:
        raise refuse(location, None, "the template is nested too deeply", "Make it simpler.") from None
    return Template.from_code(environment, code, {})


def check_loops(tree: nodes.Template, location: str) -> None:
    """Raises `Refused` for a loop inside a loop."""
    for loop in tree.find_all(nodes.For):
        deeper = [inner for part in loop.body for inner in (part, *part.find_all(nodes.For)) if inner is not loop]
        if loop.recursive or any(isinstance(inner, nodes.For) for inner in deeper):
            raise refuse(f"{location}:{loop.lineno}", None, "loops inside loops are not allowed", "Use one loop.")


def _checked(tree: nodes.Template, location: str) -> nodes.Template:
    _check(tree, location)
    bounded_tree: nodes.Template = _Bounds().visit(tree)
    return bounded_tree


def _check(tree: nodes.Template, location: str) -> None:
    for found in tree.find_all((nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends, nodes.Block)):
        where = f"{location}:{found.lineno}"
        raise refuse(where, None, "a template cannot read other templates", "Write it out here.")
    for found in tree.find_all((nodes.Macro, nodes.CallBlock)):
        raise refuse(f"{location}:{found.lineno}", None, "macros are not allowed", "Write it out here.")
    for found in tree.find_all((nodes.Assign, nodes.AssignBlock, nodes.With, nodes.FilterBlock)):
        where = f"{location}:{found.lineno}"
        raise refuse(where, None, "a template has no variables of its own", "Write the value where it is needed.")
    check_loops(tree, location)
    for call in tree.find_all(nodes.Call):
        raise refuse(f"{location}:{call.lineno}", None, "a template calls nothing", "Use a filter: {{ x | lower }}.")
    for output in tree.find_all(nodes.Output):
        for index, node in enumerate(output.nodes):
            if isinstance(node, nodes.TemplateData):
                continue
            before = _text(output.nodes[index - 1]) if index else ""
            after = _text(output.nodes[index + 1]) if index + 1 < len(output.nodes) else ""
            if before is None or after is None or not (_BEFORE_VALUE.search(before) and _AFTER_VALUE.match(after)):
                reason = "an expression must be a whole value, with its dash or key in the same block"
                fix = 'Write - {{ "--flag=" ~ name }} instead of - --flag={{ name }}.'
                raise refuse(f"{location}:{node.lineno}", None, reason, fix)


def _text(node: nodes.Node) -> str | None:
    return node.data if isinstance(node, nodes.TemplateData) else None


@pass_context
def _finalize(context: Context, value: object) -> str:
    if isinstance(value, Undefined):
        return str(value)  # raises: the name is undefined
    allowance(context).spend_for(value)
    return to_json(value)


def _line_of(error: BaseException, location: str) -> int | None:
    line, trace = None, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == location:
            line = trace.tb_lineno
        trace = trace.tb_next
    return line


def is_plainly_shallow(text: str) -> bool:
    """Whether a look at the characters tells that `text` has no alias and at most `MAX_DEPTH` levels.

    A flow collection takes a bracket. A block collection begins behind nothing but spaces and indicators of its line,
    each deeper one further to the right, but for a list right below its key: two levels a column at most.
    """
    if "*" in text:
        return False
    brackets = text.count("[") + text.count("{")
    columns = max((match.end() - match.start() for match in _BLOCK_BEGIN.finditer(text)), default=0)
    return brackets + 2 * (columns + 1) <= MAX_DEPTH


def _check_shape(text: str, location: str) -> None:
    """Refuses what the loader cannot bear: it goes one C frame deeper per level, and copies what aliases merge."""
    if is_plainly_shallow(text):
        return
    depth = 0
    for event in yaml.parse(text, Loader=yaml.CSafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH or isinstance(event, yaml.AliasEvent):
            reason = "aliases are not allowed" if depth <= MAX_DEPTH else f"it is nested deeper than {MAX_DEPTH} levels"
            where = f"line {event.start_mark.line + 1} of its output" if event.start_mark else "in its output"
            raise refuse(
                location, None, f"the template gives YAML that cannot be taken, {where}: {reason}", "Write it out."
            )


def _parse(text: str, location: str, read: Callable[..., object]) -> object:
    try:
        _check_shape(text, location)
        return read(text, Loader=yaml.CSafeLoader)
    except ValueError as error:  # a date or a number that is none
        raise refuse(location, None, f"the template gives a value that is none: {error}", "Put it in quotes.") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        at = f", line {mark.line + 1} of its output" if mark else ""
        reason = f"the template does not give YAML{at}: {getattr(error, 'problem', None) or error}"
        raise refuse(location, None, reason, "Correct it or use the shipped one.") from None
