"""Writes what a version of an engine accepts on its command line, as templates/<backend>/flags.<version>.yaml.

Runs where the engine can be imported, which may be its own image, and needs nothing else:

    python make/flags.py vllm   > templates/vllm/flags.0.33.0.yaml
    python make/flags.py sglang > templates/sglang/flags.0.5.23.yaml
    python make/flags.py trtllm > templates/trtllm/flags.1.3.0.yaml

The flags come from the engine's own parser. TensorRT-LLM takes most of its settings from a file: their fields, from
its own pydantic models, are listed under `settings`.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import sys
import types
import typing
from collections.abc import Callable, Iterator
from typing import Any

SOURCES = {
    "vllm": "vllm/engine/arg_utils.py, vllm/config/ and cli_args.py in vllm/entrypoints/",
    "sglang": "sglang/srt/server_args.py and sglang/srt/arg_groups/",
    "trtllm": "tensorrt_llm/commands/serve.py and tensorrt_llm/llmapi/llm_args.py",
}
PACKAGES = {"vllm": "vllm", "sglang": "sglang", "trtllm": "tensorrt_llm"}


def vllm_parser() -> argparse.ArgumentParser:
    """The parser of `vllm serve`."""
    from vllm.config.cache import CacheDType
    from vllm.utils.argparse_utils import FlexibleArgumentParser
    from vllm.v1.attention.backends.registry import AttentionBackendEnum

    try:
        from vllm.entrypoints.common.cli_args import make_arg_parser
    except ModuleNotFoundError:  # until 0.32
        from vllm.entrypoints.launchers.cli_args import make_arg_parser
    parser = make_arg_parser(FlexibleArgumentParser(add_help=False))
    # Texts that are looked up elsewhere.
    looked_up = {
        "attention_backend": tuple(AttentionBackendEnum.__members__),
        "kv_cache_dtype": typing.get_args(CacheDType),
    }
    for action in parser._actions:
        action.choices = looked_up.get(action.dest, action.choices)
    return parser


def sglang_parser() -> argparse.ArgumentParser:
    """The parser of `python -m sglang.launch_server`."""
    from sglang.srt.server_args import ServerArgs

    parser = argparse.ArgumentParser(add_help=False)
    ServerArgs.add_cli_args(parser)
    return parser


def of_argparse(parser: argparse.ArgumentParser) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each flag with what it takes: its first name, its others, number and kind of values, the values that exist."""
    names: dict[argparse.Action, list[str]] = {}
    for text, action in parser._option_string_actions.items():  # has names that are accepted but not shown, too
        names.setdefault(action, []).append(text)
    for action, texts in names.items():
        name = next((text for text in texts if text.startswith("--")), texts[0])
        entry: dict[str, Any] = {}
        if len(texts) > 1:
            entry["also"] = [text for text in texts if text != name]
        entry["takes"] = {None: 1, 0: 0}.get(action.nargs, action.nargs)
        if entry["takes"] != 0:
            entry["kind"] = kind(action.type)
        if action.choices is not None:
            entry["choices"] = sorted(str(choice) for choice in action.choices if choice is not None)
        yield name, entry


def kind(convert: Callable[[str], Any] | None) -> str:
    """What a converter of texts accepts: whole numbers, numbers, JSON, or any text."""

    def takes(text: str) -> bool:
        with contextlib.suppress(Exception):
            convert(text)  # type: ignore[misc]
            return True
        return False

    if convert is None or takes("x y"):
        return "text"
    if takes("1.5"):
        return "json" if takes('{"a": 1}') else "float"
    return "int" if takes("7") else "json" if takes("{}") else "text"


def of_click() -> Iterator[tuple[str, dict[str, Any]]]:
    """The flags of `trtllm-serve serve`."""
    import click
    from tensorrt_llm.commands.serve import serve

    for option in serve.params:
        if not isinstance(option, click.Option):
            continue
        names = sorted((*option.opts, *option.secondary_opts), key=len, reverse=True)
        entry: dict[str, Any] = {"also": names[1:]} if names[1:] else {}
        entry["takes"] = 0 if option.is_flag else 1
        if entry["takes"]:
            entry["kind"] = {"integer": "int", "float": "float"}.get(option.type.name, "text")
        if isinstance(option.type, click.Choice):
            entry["choices"] = sorted(option.type.choices)
        yield names[0], entry


def of_pydantic(model: Any, prefix: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """The fields of a settings file, nested ones with a dot."""
    for name, field in model.model_fields.items():
        members = [field.annotation]
        if isinstance(field.annotation, types.UnionType) or typing.get_origin(field.annotation) is typing.Union:
            members = [item for item in typing.get_args(field.annotation) if item is not type(None)]
        nested = next((item for item in members if hasattr(item, "model_fields")), None)
        if nested is not None and len(members) == 1:
            yield f"{prefix}{name}", {"kind": "mapping"}
            yield from of_pydantic(nested, f"{prefix}{name}.")
            continue
        choices = [str(choice) for item in members for choice in typing.get_args(item) if isinstance(choice, str)]
        entry = {"kind": {bool: "bool", int: "int", float: "float"}.get(members[0], "text")}
        if typing.get_origin(members[0]) is list:
            entry = {"kind": "list"}
        yield f"{prefix}{name}", {**entry, **({"choices": sorted(choices)} if choices else {})}


def written(entries: Iterator[tuple[str, dict[str, Any]]]) -> list[str]:
    """One line for each entry, sorted by name; JSON is YAML too."""
    return [f"  {name}: {json.dumps(entry)}" for name, entry in sorted(dict(entries).items())]


def main() -> None:
    """Prints the file for the engine that the command line names."""
    backend = sys.argv[1]
    version = importlib.metadata.version(PACKAGES[backend]).split("+")[0]
    lines = [
        f"# What {PACKAGES[backend]} {version} accepts, written by make/flags.py inside that version. Do not edit.",
        f"backend: {backend}",
        f"version: {version}",
        f"source: {PACKAGES[backend]} {version}, {SOURCES[backend]}",
        "flags:",
    ]
    if backend == "trtllm":
        from tensorrt_llm.llmapi.llm_args import TorchLlmArgs

        lines += [*written(of_click()), "settings:", *written(of_pydantic(TorchLlmArgs))]
    else:
        lines += written(of_argparse({"vllm": vllm_parser, "sglang": sglang_parser}[backend]()))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
