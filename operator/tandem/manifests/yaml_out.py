"""Objects as YAML: what `tandem render` prints."""

from __future__ import annotations

import re
from typing import Any

import yaml

from tandem.manifests.model import Build

# Plain only when every YAML parser, old or new, reads a text: "1e3", "0o7", "0.33.0", "yes" and the like are quoted.
_PLAIN = re.compile(r"(--|/)?[A-Za-z]([A-Za-z0-9_./-]*[A-Za-z0-9_/])?|/")
_WORDS = frozenset(("y", "n", "yes", "no", "on", "off", "true", "false", "null", "none", "nan", "inf"))


class _Dumper(yaml.CSafeDumper):
    """Quotes what could be read as something else; never writes aliases."""

    def ignore_aliases(self, _data: Any) -> bool:
        return True


def _text(dumper: yaml.CSafeDumper, value: str) -> yaml.Node:
    if _PLAIN.fullmatch(value) and value.lower() not in _WORDS:
        style = None
    elif value.isprintable():
        style = "'"
    elif "\n" in value.rstrip("\n") and value.replace("\n", "").isprintable() and not value.startswith((" ", "\n")):
        style = "|"
    else:
        style = '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Dumper.add_representer(str, _text)


def to_yaml(build: Build) -> str:
    """All objects as one YAML stream, keys sorted: the same bytes for the same objects."""
    return yaml.dump_all(
        build.objects, Dumper=_Dumper, sort_keys=True, explicit_start=True, width=2**31 - 1, allow_unicode=True
    )
