"""Scripts as templates in a mapping file: every value stays one word."""

import shlex
import subprocess

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from tandem.api.problems import Refused
from tandem.generator.calls import generate_backend_artifacts, generate_config_from_input_dict
from tandem.generator.shelltext import compile_scripts, compile_shell

DOCUMENTED = r"""
# Example mapping for vLLM backend
vllm:
  run.sh.j2: |
    python -m vllm.entrypoints.openai.api_server \
      --model {{ model.model_path }} \
      --tensor-parallel-size {{ params.prefill.tp }} \
      --max-model-len {{ params.prefill.max_model_len | default(4096) }}
"""


def run(text, disagg, library, tmp_path):
    path = tmp_path / "mapping.yaml"
    path.write_text(text)
    params = generate_config_from_input_dict(disagg, backend="vllm", library=library)
    return generate_backend_artifacts(params, "vllm", mapping_path=path, library=library)


def test_s0_41_the_documented_mapping_file_renders(disagg, library, tmp_path):
    script = run(DOCUMENTED, disagg, library, tmp_path)["run.sh"]

    assert shlex.split(script.replace("\\\n", " ")) == [
        *("python", "-m", "vllm.entrypoints.openai.api_server", "--model", "Qwen/Qwen3-32B"),
        *("--tensor-parallel-size", "2", "--max-model-len", "4096"),
    ]


def test_s0_41_an_undefined_name_fails(disagg, library, tmp_path):
    text = yaml.safe_dump({"vllm": {"run.sh.j2": "echo {{ params.prefill.nope }}"}})

    with pytest.raises(Refused, match=r"run\.sh\.j2: the template fails: .*'nope'"):
        run(text, disagg, library, tmp_path)


def test_s0_41_a_role_that_the_mode_lacks_is_undefined(disagg, library, tmp_path):
    text = yaml.safe_dump({"vllm": {"run.sh.j2": "echo {{ params.agg.tp }}"}})

    with pytest.raises(Refused, match="'agg'"):
        run(text, disagg, library, tmp_path)


@settings(deadline=None, max_examples=30)
@given(value=st.text(alphabet=st.characters(exclude_characters="\x00", codec="utf-8"), max_size=20))
def test_a_value_is_one_word_of_a_real_shell(value):
    template = compile_shell("printf '%s|' {{ value }} --x={{ value }} # done\n", "test")

    done = subprocess.run(["bash", "-c", template.render({"value": value})], capture_output=True, check=True)

    assert done.stdout == f"{value}|--x={value}|".encode()


@pytest.mark.parametrize(
    "source",
    [
        'echo "{{ x }}"',
        "echo '{{ x }}'",
        "# {{ x }}\n",
        "echo ${{ x }}",
        "echo \\{{ x }}",
        "cat <<EOF\n{{ x }}\nEOF\n",
        "echo $(( {{ x }} ))",
        "(( {{ x }} ))",
        "[[ {{ x }} -eq 1 ]]",
        "echo `echo {{ x }}`",
        'echo "$(echo {{ x }})"',
        "echo $'{{ x }}'",
        '{% if x %}"{% endif %}{{ x }}',
        "{% for y in x %}{{ y }} #{% endfor %}",
        "{% if x %}${% endif %}{{ x }}",
        'echo a#b "{{ x }}"',
    ],
)
def test_an_expression_where_quoting_would_not_hold_is_refused(source):
    with pytest.raises(Refused) as caught:
        compile_shell(source, "run.sh.j2")

    assert caught.value.problems[0].path.startswith("run.sh.j2:")


@pytest.mark.parametrize(
    "source",
    [
        "{% set a = 1 %}",
        "{% include 'x' %}",
        "{% macro m() %}{% endmacro %}",
        "{{ x() }}",
        "{{ x['y'] }}",
        "{{ x * 3 }}",
        "{{ x ~ x }}",
        "{{ x.format(1) }}",
        "{% for a in x %}{% for b in a %}{{ b }}{% endfor %}{% endfor %}",
        "{% for a in x %}{% if a %}{% for b in a %}{{ b }}{% endfor %}{% endif %}{% endfor %}",
        "{% if %}",
        "{{ cycler.__init__.__globals__.os.popen('id -u').read() }}",
    ],
)
def test_what_is_no_condition_loop_name_or_filter_is_refused(source):
    with pytest.raises(Refused):
        compile_shell(source, "run.sh.j2")


@pytest.mark.parametrize("value", [None, {"a": 1}, "a\x00b"])
def test_a_value_that_is_no_word_is_refused(value):
    with pytest.raises(Refused, match="is no word of a shell"):
        compile_shell("echo {{ x }}", "run.sh.j2").render({"x": value})


def test_lists_are_words_and_blocks_work():
    template = compile_shell("{% for x in items %}\necho {{ x }}\n{% endfor %}\nall {{ items }} {{ yes }}\n", "t")

    assert template.render({"items": ["a b", 1], "yes": True}) == "echo 'a b'\necho 1\nall 'a b' 1 true\n"


@pytest.mark.parametrize("texts", [{"run.yaml.j2": ""}, {"../run.sh.j2": ""}, {"run.sh.j2": 1}, {1: ""}])
def test_a_template_that_is_no_script_is_refused(texts):
    with pytest.raises(Refused, match="a template in a mapping file is a script"):
        compile_scripts(texts, "mapping.yaml")
