"""`tools` and `tool_choice`: what a request allows the model to call, and calls in the answer's form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tandem_serve.engine.grammar import Grammar, lark_source
from tandem_serve.http import structured, tool_formats
from tandem_serve.http.errors import invalid, unsupported
from tandem_serve.http.schema import ChatRequest, FunctionSpec, ToolChoice
from tandem_serve.http.tool_formats import Function, ToolFormat
from tandem_serve.http.tool_parser import CallDelta, Part, ToolParser
from tandem_serve.service import Service

_NO_PARAMETERS = {"type": "object", "properties": {}, "additionalProperties": False}


@dataclass(frozen=True, kw_only=True)
class Calling:
    """What may be called, and how it is written. `forced`: the answer is calls and nothing else."""

    form: ToolFormat
    begin_token: int | None
    """The special token that `form.begin` is, if it is one."""
    functions: tuple[Function, ...]
    several: bool
    forced: bool
    strict: bool
    documents: list[dict[str, Any]]
    """The tools as the chat template gets them."""

    def parser(self) -> ToolParser:
        """Reads one answer."""
        return ToolParser(self.form, [one.name for one in self.functions], several=self.several)


def of_request(service: Service, body: ChatRequest) -> Calling | None:
    """What a request allows; None when nothing may be called. Raises a 400."""
    choice = body.tool_choice
    if not body.tools:
        if choice not in (None, "none", "auto"):
            raise invalid("tool_choice: there are no tools to choose from", param="tool_choice")
        return None
    functions = [_function(tool.function, f"tools[{n}].function") for n, tool in enumerate(body.tools)]
    _refuse_doubles(functions)
    if choice == "none":
        return None
    if body.response_format is not None and body.response_format.type != "text":
        raise unsupported("response_format", " together with tools: choose one, or set tool_choice to none")
    form = _format(service)
    return Calling(
        form=form,
        begin_token=service.loaded.codec.special_token(form.begin) if form.begin else None,
        functions=tuple(_chosen(functions, choice)),
        several=body.parallel_tool_calls is not False,
        forced=choice not in (None, "auto"),
        strict=any(tool.function.strict for tool in body.tools),
        documents=[tool.model_dump(exclude_unset=True) for tool in body.tools],
    )


async def grammar(service: Service, calling: Calling) -> Grammar | None:
    """What makes calls valid whatever the model says: where they are asked for, and of strict functions.

    Raises a 400 that names the function whose parameters cannot be followed.
    """
    if not calling.forced and not calling.strict:
        return None
    text = tool_formats.grammar(
        calling.form,
        calling.functions,
        several=calling.several,
        begin_token=calling.begin_token,
        free_text=not calling.forced,
    )
    schemas = {function.path: function.parameters for function in calling.functions}
    return await structured.compiled(service, lark_source(text), param="tools", schemas=schemas)


def _function(spec: FunctionSpec, path: str) -> Function:
    parameters = _NO_PARAMETERS if spec.parameters is None else {"type": "object", **spec.parameters}
    if parameters["type"] != "object":
        where = f"{path}.parameters.type"
        raise invalid(f"{where}: the arguments of a function are an object", param=where)
    structured.check_patterns(parameters, param=f"{path}.parameters")
    return Function(name=spec.name, parameters=parameters, path=f"{path}.parameters")


def _refuse_doubles(functions: Sequence[Function]) -> None:
    seen: set[str] = set()
    for number, function in enumerate(functions):
        if function.name in seen:
            where = f"tools[{number}].function.name"
            raise invalid(f"{where}: {function.name!r} is there already", param=where)
        seen.add(function.name)


def _chosen(functions: Sequence[Function], choice: str | ToolChoice | None) -> Sequence[Function]:
    if not isinstance(choice, ToolChoice):
        return functions
    chosen = [one for one in functions if one.name == choice.function.name]
    if not chosen:
        where = "tool_choice.function.name"
        raise invalid(f"{where}: there is no tool of the name {choice.function.name!r}", param=where)
    return chosen


def _format(service: Service) -> ToolFormat:
    template = service.ready.codec.template_for_tools
    if not template:
        raise unsupported("tools", ": the model's chat template does not know tools")
    told = service.settings.tool_call_format
    form = tool_formats.BY_NAME[told] if told else tool_formats.of_template(template)
    if form is None:
        known = ", ".join(tool_formats.BY_NAME)
        reason = ": the model's chat template does not tell how it writes calls"
        raise unsupported("tools", f"{reason}; start the server with --tool-call-format and one of {known}")
    return form


def delta(part: Part) -> dict[str, Any]:
    """A part of an answer as the `delta` of a chunk."""
    return {"content": part} if isinstance(part, str) else {"tool_calls": [_call_delta(part)]}


def _call_delta(call: CallDelta) -> dict[str, Any]:
    if call.call_id is None:
        return {"index": call.index, "function": {"arguments": call.arguments}}
    function = {"name": call.name, "arguments": call.arguments}
    return {"index": call.index, "id": call.call_id, "type": "function", "function": function}


def message(parts: Sequence[Part]) -> dict[str, Any]:
    """All parts of an answer as a message."""
    content = "".join(part for part in parts if isinstance(part, str))
    calls: dict[int, dict[str, Any]] = {}
    for part in parts:
        if isinstance(part, CallDelta):
            if part.call_id is not None:
                function = {"name": part.name, "arguments": ""}
                calls[part.index] = {"id": part.call_id, "type": "function", "function": function}
            calls[part.index]["function"]["arguments"] += part.arguments
    if not calls:
        return {"role": "assistant", "content": content}
    return {"role": "assistant", "content": content if content.strip() else None, "tool_calls": list(calls.values())}
