"""What a request may say. Wrong types and values are refused; unknown fields are ignored; fields with a meaning that
is not served are refused by name (`refuse_unsupported`), unless they carry the value that changes nothing.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

from tandem_serve.http.errors import invalid, unsupported

HARD_MAX_NEW_TOKENS = 512
"""No `/generate` request gets more, whatever the configuration says."""
MAX_STOPS = 16
MAX_BIASES = 1024
MAX_STOP_TOKENS = 1024
MAX_TOOLS = 2048
MAX_CHOICES = 128
"""Sequences of one request: prompts times n."""
ROLES = ("system", "developer", "user", "assistant", "tool", "function")
"""Who may have said a message."""
_SHOWN_CHARS = 40

_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "add_generation_prompt": (True,),
    "allowed_token_ids": ([],),
    "audio": (),
    "bad_words": ([],),
    "best_of": (1,),
    "chat_template": (),
    "continue_final_message": (False,),
    "documents": ([],),
    "function_call": ("none",),
    "functions": ([],),
    "guided_choice": (),
    "guided_grammar": (),
    "guided_json": (),
    "guided_regex": (),
    "include_stop_str_in_output": (False,),
    "length_penalty": (1,),
    "modalities": (["text"],),
    "prediction": (),
    "prompt_embeds": (),
    "prompt_logprobs": (),
    "reasoning_effort": ("none",),
    "return_tokens_as_token_ids": (False,),
    "structured_outputs": (),
    "suffix": ("",),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "truncate_prompt_tokens": (),
    "typical_p": (1,),
    "use_beam_search": (False,),
    "web_search_options": (),
}


_GUIDED = ("guided_choice", "guided_grammar", "guided_json", "guided_regex", "structured_outputs")


def _unicode(text: str) -> str:
    """JSON can escape half of a surrogate pair: no tokenizer takes that, and no answer could repeat it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise PydanticCustomError("string_unicode", "it holds half of a surrogate pair, which is not text") from None
    return text


def _known_role(role: str) -> str:
    """Most chat templates take any role, and leave the message out."""
    if role not in ROLES:
        shown = repr(role[:_SHOWN_CHARS])
        raise PydanticCustomError("invalid_value", "{shown} is no role; known are {known}",
                                  {"shown": shown, "known": ", ".join(ROLES)})  # fmt: skip
    return role


T = TypeVar("T")
Text = Annotated[str, AfterValidator(_unicode)]
# One wrong item is enough to refuse a list: an error for each of millions would take gigabytes.
Items = Annotated[list[T], Field(fail_fast=True)]


Bias = Annotated[float, Field(ge=-100, le=100)]


class _Request(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)

    def refuse_unsupported(self) -> None:
        """Raises a 400 that names the first field whose meaning is not served."""
        for name, value in (self.model_extra or {}).items():
            if name in _NEUTRAL and value is not None and value not in (*_NEUTRAL[name], *self._also_neutral(name)):
                raise unsupported(name, "; response_format is" if name in _GUIDED else "")

    def _also_neutral(self, name: str) -> tuple[Any, ...]:  # noqa: ARG002
        """Values of a field that change nothing in this request."""
        return ()


class StreamOptions(BaseModel):
    """`stream_options`; what else it may hold is ignored."""

    include_usage: bool = False


class JsonSchema(BaseModel):
    """`response_format.json_schema`. `strict` changes nothing: a schema is always kept to."""

    model_config = ConfigDict(extra="ignore", strict=True)

    name: Text = Field(min_length=1)
    content: dict[str, Any] = Field(alias="schema")


class ResponseFormat(BaseModel):
    """`response_format`."""

    model_config = ConfigDict(extra="ignore", strict=True)

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class OpenAIRequest(_Request):
    """Fields that completions and chat share."""

    model: Text | None = None
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, ge=0, le=1)
    top_k: int | None = Field(default=None, ge=-1)
    min_p: float | None = Field(default=None, ge=0, le=1)
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    repetition_penalty: float | None = Field(default=None, ge=0.01, le=100)
    logit_bias: Annotated[dict[Text, Bias], Field(max_length=MAX_BIASES)] | None = None
    n: int | None = Field(default=None, ge=1, le=MAX_CHOICES)
    seed: int | None = None
    stop: Text | Items[Text] | None = None
    stop_token_ids: Annotated[Items[int], Field(max_length=MAX_STOP_TOKENS)] | None = None
    min_tokens: int | None = Field(default=None, ge=0)
    ignore_eos: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    response_format: ResponseFormat | None = None
    skip_special_tokens: bool | None = None
    return_token_ids: bool | None = None
    kv_transfer_params: dict[str, Any] | None = None

    def _also_neutral(self, name: str) -> tuple[Any, ...]:
        return (self.n,) if name == "best_of" else ()

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings. Raises a 400 for too many and for empty ones."""
        stops = [self.stop] if isinstance(self.stop, str) else self.stop or []
        if len(stops) > MAX_STOPS:
            raise invalid(f"stop: at most {MAX_STOPS} strings", param="stop")
        if not all(stops):
            raise invalid("stop: a stop string must not be empty", param="stop")
        return tuple(stops)

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with a chunk of usage figures."""
        return self.stream_options is not None and self.stream_options.include_usage


class CompletionRequest(OpenAIRequest):
    """`POST /v1/completions`."""

    prompt: Text | Items[Text] | Items[int] | Items[Items[int]]
    max_tokens: int | None = Field(default=None, ge=0)
    logprobs: int | None = Field(default=None, ge=0, le=20)
    echo: bool | None = None


class CalledFunction(BaseModel):
    """What an assistant's message called. `arguments` is JSON, as text or as it is."""

    model_config = ConfigDict(extra="allow", strict=True)

    name: Text = Field(min_length=1)
    arguments: Text | dict[str, Any] = ""

    def parsed(self, path: str) -> dict[str, Any]:
        """As chat templates want it, arguments as an object. Raises a 400."""
        arguments: Any = self.arguments or {}
        if isinstance(arguments, str):
            try:
                arguments = json.loads(arguments)
            except (ValueError, RecursionError) as error:
                raise invalid(f"{path}.arguments: it is not JSON: {error}", param=f"{path}.arguments") from error
        if not isinstance(arguments, dict):
            raise invalid(f"{path}.arguments: it is not a JSON object", param=f"{path}.arguments")
        return {**(self.model_extra or {}), "name": self.name, "arguments": arguments}


class ToolCall(BaseModel):
    """One call in an assistant's message."""

    model_config = ConfigDict(extra="allow", strict=True)

    type: Literal["function"] = "function"
    function: CalledFunction


class ChatMessage(BaseModel):
    """One message. `content` is text or a list of text parts; only an assistant that calls tools may go without."""

    model_config = ConfigDict(extra="allow", strict=True)

    role: Annotated[Text, AfterValidator(_known_role)]
    content: Text | Items[dict[str, Any]] | None = None
    tool_calls: Items[ToolCall] | None = None

    def flattened(self, path: str) -> dict[str, Any]:
        """Role, text, calls and further fields for the chat template. Raises a 400 that names what is wrong."""
        if (self.model_extra or {}).get("function_call"):
            raise unsupported(f"{path}.function_call")
        if self.content is None and not (self.role == "assistant" and self.tool_calls):
            reason = "a text, or a list of parts, is needed here; only an assistant with tool_calls may go without"
            raise invalid(f"{path}.content: {reason}", param=f"{path}.content")
        text = "".join(self._texts(self.content, path)) if isinstance(self.content, list) else self.content or ""
        calls = [
            {**(call.model_extra or {}), "type": call.type, "function": call.function.parsed(f"{path}.tool_calls[{n}]")}
            for n, call in enumerate(self.tool_calls or ())
        ]
        message = {**(self.model_extra or {}), "role": self.role, "content": text}
        return message | {"tool_calls": calls} if calls else message

    @staticmethod
    def _texts(parts: list[dict[str, Any]], path: str) -> list[str]:
        texts = []
        for index, part in enumerate(parts):
            text = part.get("text")
            if part.get("type") != "text" or not isinstance(text, str):
                raise unsupported(f"{path}.content[{index}]", ": only parts of type text are")
            texts.append(text)
        return texts


class FunctionSpec(BaseModel):
    """`tools[].function`; what else it may hold goes to the chat template."""

    model_config = ConfigDict(extra="allow", strict=True)

    name: Text = Field(min_length=1, max_length=256)
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(BaseModel):
    """`tools[]`."""

    model_config = ConfigDict(extra="allow", strict=True)

    type: Literal["function"]
    function: FunctionSpec


class ChosenFunction(BaseModel):
    """`tool_choice.function`."""

    name: Text


class ToolChoice(BaseModel):
    """`tool_choice` that names a function."""

    type: Literal["function"]
    function: ChosenFunction


class ChatRequest(OpenAIRequest):
    """`POST /v1/chat/completions`."""

    messages: Items[ChatMessage] = Field(min_length=1)
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    chat_template_kwargs: dict[str, Any] | None = None
    tools: Annotated[Items[Tool], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: Literal["none", "auto", "required"] | ToolChoice | None = None
    parallel_tool_calls: bool | None = None


class GenerateRequest(BaseModel):
    """`POST /generate`."""

    model_config = ConfigDict(extra="ignore", strict=True)

    prompt: Text = Field(min_length=1)
    max_new_tokens: int | None = Field(default=None, ge=1, le=HARD_MAX_NEW_TOKENS)
    temperature: float = Field(default=0.7, ge=0.1, le=2)
    top_p: float = Field(default=0.9, ge=0, le=1)
    top_k: int = Field(default=50, ge=0, le=100)
    num_return_sequences: int = Field(default=1, ge=1, le=5)
    seed: int | None = None


class TokenizeRequest(_Request):
    """`POST /tokenize`: of a text, or of messages through the chat template."""

    model: Text | None = None
    prompt: Text | None = None
    messages: Items[ChatMessage] | None = None
    tools: Annotated[Items[Tool], Field(max_length=MAX_TOOLS)] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    add_special_tokens: bool = True
    return_token_strs: bool = False


class DetokenizeRequest(_Request):
    """`POST /detokenize`."""

    model: Text | None = None
    tokens: Items[int]


Role = Literal["agg", "prefill", "decode"]
