"""Files that users of the generator give: inputs, schemas, mapping files."""

from __future__ import annotations

from pathlib import Path

from tandem.api.problems import refuse
from tandem.api.yaml_in import MAX_CHARACTERS, read_documents


def read_file(path: Path, missing: str) -> str:
    """The text of a file; raises `Refused`, with the reason `missing` when there is none."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_CHARACTERS + 1)
        return data.decode("utf-8-sig")
    except FileNotFoundError:
        raise refuse(str(path), None, missing, "Check the path.") from None
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise refuse(f"{path}:{line}", None, "this is no text in UTF-8", "Give a readable UTF-8 file.") from None
    except (OSError, ValueError) as error:
        reason = f"the file cannot be read: {getattr(error, 'strerror', None) or error}"
        raise refuse(str(path), None, reason, "Give a readable UTF-8 file.") from None


def read_data(text: str, name: str) -> object:
    """The value of the one YAML document in `text`, None for an empty one; raises `Refused`, located in `name`.

    Keys are texts, as they are written.
    """
    documents = list(read_documents(text, name, keys_as_written=True))
    if len(documents) > 1:
        where = f"{name}:{documents[1].node.start_mark.line + 1}"
        raise refuse(where, None, "a second document begins here, and one is read", "Remove what follows ---.")
    return documents[0].value if documents else None
