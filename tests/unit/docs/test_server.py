"""The file of limits on the server's page is the one that is used without a file."""

import re
from pathlib import Path

from tandem_serve.config import ConfigFile, load_config

PAGE = (Path(__file__).parents[3] / "docs" / "server.md").read_text(encoding="utf-8")


def test_s1_17_the_file_on_the_page_holds_every_limit_with_its_default(tmp_path):
    (text,) = re.findall(r"```yaml\n(GENERATION:.*?)```", PAGE, re.DOTALL)
    file = tmp_path / "config.yml"
    file.write_text(text)
    found = load_config(file, {}).file
    assert found.GENERATION == ConfigFile().GENERATION
    assert found.GENERATION.model_fields_set == set(type(found.GENERATION).model_fields)
