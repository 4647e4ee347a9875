"""TensorRT-LLM's hand-off: the context worker computes prompt and first token, generation goes on from there. Pure.

The context worker's answer carries `disaggregated_params`; the generation worker gets the client's body with these,
marked `generation_only`, and with the prompt as the token ids that the context worker made of it. A worker is a plain
server to requests without them.
"""

from __future__ import annotations

from typing import Any

from tandem.gateway.protocol import BadHandoff, Body, Handoff

PARAMS = "disaggregated_params"
_IDS = "prompt_token_ids"
_GOES_ON = ("length", "not_finished")


def context_body(body: Body) -> Body:
    """The body of the context leg: the same request, answered after its first token."""
    leg = {key: value for key, value in body.items() if key != "stream_options"}
    return {**leg, "stream": False, PARAMS: {"request_type": "context_only"}}


def generation_body(body: Body, handoff: Handoff) -> Body:
    """The body of the generation leg."""
    ids = handoff.params[_IDS]
    prompt: dict[str, Any] = {} if ids is None else {(_IDS if "messages" in body else "prompt"): ids}
    return {**body, **prompt, PARAMS: {**handoff.params[PARAMS], "request_type": "generation_only"}}


def read_handoff(answer: object) -> Handoff | BadHandoff | None:
    """The hand-off in the context worker's answer (parsed JSON); None when the request ended with its first token."""
    if not isinstance(answer, dict):
        return BadHandoff("", "the answer is not an object")
    choices = answer.get("choices")
    if not isinstance(choices, list) or len(choices) != 1 or not isinstance(choices[0], dict):
        return BadHandoff("", "the answer has not exactly one choice")
    if choices[0].get("finish_reason") not in (*_GOES_ON, None):
        return None
    params, ids = choices[0].get(PARAMS), answer.get(_IDS)
    if not isinstance(params, dict):
        return BadHandoff(PARAMS, "is missing")
    if params.get("ctx_request_id") is None:
        return BadHandoff(f"{PARAMS}.ctx_request_id", "is missing")
    tokens = params.get("first_gen_tokens")
    if not isinstance(tokens, list) or not tokens:
        return BadHandoff(f"{PARAMS}.first_gen_tokens", "must be a list of tokens")
    if ids is not None and not isinstance(ids, list):
        return BadHandoff(_IDS, "must be a list of tokens")
    return Handoff({PARAMS: params, _IDS: ids})
