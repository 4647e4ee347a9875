"""Runs in the clients' environment: `langchain_script.py URL` prints what LangChain made of the server's answers."""

from __future__ import annotations

import json
import sys
from typing import Literal

from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel


class Place(BaseModel):
    """A place and how sure one is of it."""

    city: Literal["Ulm", "Rome"]
    sure: bool


@tool
def weather(city: Literal["Ulm", "Rome"]) -> str:
    """The weather of a city."""
    return f"warm in {city}"


def main(url: str) -> None:
    """One of each kind of request."""
    model = ChatOpenAI(base_url=f"{url}/v1", api_key="none", model="tiny", temperature=0, max_tokens=12, max_retries=0)
    whole = model.invoke([HumanMessage("the quick")])
    streamed = list(model.stream([HumanMessage("the quick")], stream_usage=True))
    longer = model.model_copy(update={"max_tokens": 300})
    caller = longer.bind_tools([weather], tool_choice="required", parallel_tool_calls=False)
    asked = caller.invoke([HumanMessage("the quick")])
    call = asked.tool_calls[0]
    result = ToolMessage(weather.invoke(call["args"]), tool_call_id=call["id"])
    after = model.invoke([HumanMessage("the quick"), AIMessage("", tool_calls=asked.tool_calls), result])
    place = longer.with_structured_output(Place, method="json_schema").invoke("the quick")
    report = {
        "whole": whole.content,
        "usage": whole.usage_metadata,
        "finish": whole.response_metadata["finish_reason"],
        "streamed": "".join(str(chunk.content) for chunk in streamed),
        "streamed_usage": [chunk.usage_metadata for chunk in streamed if chunk.usage_metadata],
        "call": call,
        "after": str(after.content),
        "place": place.model_dump(),
    }
    print(json.dumps(report))


main(sys.argv[1])
