"""A template of a user is bounded in time and memory: one operator renders for everybody."""

import pytest
import yaml
from jinja2 import Environment

from tandem.api.problems import Refused
from tandem.rendering.bounds import MAX_ITEMS, MAX_WORK
from tandem.rendering.templates import MAX_DEPTH, compile_template, template_environment

NAMES = {"text": "ab,b", "items": ["b", "a", "b"], "table": {"k": 1}, "n": -3, "long": "x" * 250_000}
TOO_MUCH = f"it makes more than {MAX_WORK} characters"


def rendered(source):
    return compile_template(template_environment(), location="t.j2", source=source).render(NAMES)[1]


@pytest.mark.parametrize(
    "expression",
    [
        "missing | default(3)",
        "missing | d([1])",
        "items | length",
        "items | join('-')",
        "items | join",
        "text | lower",
        "text | upper",
        "text | replace('b', 'cc')",
        "text | trim",
        "items | first",
        "items | last",
        "items | sort",
        "items | sort(reverse=true)",
        "items | unique | list",
        "text | list",
        "n | string",
        "'7' | int",
        "table | items | list",
        "table | dictsort",
        "items | min",
        "[n, 2] | max",
        "n | abs",
        "items + ['c']",
        "text ~ n ~ 'x'",
    ],
)
def test_bounded_operators_and_filters_give_what_jinja_gives(expression):
    plain = Environment().compile_expression(expression)(**NAMES)

    as_data = [list(item) if isinstance(item, tuple) else item for item in plain] if isinstance(plain, list) else plain
    assert rendered(f"- {{{{ {expression} }}}}\n") == [as_data]


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("- {{ long ~ " + "long ~ " * 5_000 + "1 }}\n", TOO_MUCH),
        ("- {{ long + " + "long + " * 50 + "long }}\n", TOO_MUCH),
        ("- {{ [" + "long, " * 5_000 + "1] }}\n", TOO_MUCH),
        ("- {{ long }}\n" * 2_000, TOO_MUCH),
        ("- {{ long | replace('x', long) }}\n", TOO_MUCH),
        ("- {{ long | list | join(long) }}\n", TOO_MUCH),
        ("- {{ text" + " | to_json" * 60 + " }}\n", TOO_MUCH),
        ("{% for x in items %}- {{ long | upper }}\n{% endfor %}\n" * 40, TOO_MUCH),
        ("{% for x in long | list %}{% endfor %}- 1\n", f"a loop goes over at most {MAX_ITEMS} items"),
        ("{% for x in long %}{% endfor %}- 1\n", "a loop needs a list"),
        ("{% set a = long ~ long %}\n- 1\n", "t.j2:1: a template has no variables of its own"),
        ("{% with a = long %}{% endwith %}\n- 1\n", "t.j2:1: a template has no variables of its own"),
        ("- {{ '{:>9999999999}'.format(1) }}\n", "t.j2:1: a template calls nothing"),
        ("- {{ 'x'.ljust(9999999999) }}\n", "t.j2:1: a template calls nothing"),
        ("- " * (MAX_DEPTH + 1) + "a\n", f"line 1 of its output: it is nested deeper than {MAX_DEPTH} levels"),
        ("- " + "[" * 30_000 + "]" * 30_000 + "\n", f"it is nested deeper than {MAX_DEPTH} levels"),
        ("- &a [x, x]\n- [*a, *a]\n", "line 2 of its output: aliases are not allowed"),
        ("- 2020-99-99\n", "a value that is none: month must be in 1..12"),
        ("- " + "9" * 5_000 + "\n", "a value that is none: Exceeds the limit"),
    ],
    ids=lambda value: value[:30],
)
def test_s0_41_what_would_take_too_much_is_a_located_error(source, reason):
    with pytest.raises(Refused) as refused:
        rendered(source)

    assert reason in str(refused.value)
    assert all(problem.path.startswith("t.j2") for problem in refused.value.problems)


def test_a_loop_goes_over_a_list_with_its_places():
    assert rendered("{% for x in items %}\n- {{ loop.index ~ x }}\n{% endfor %}\n") == ["1b", "2a", "3b"]


def test_what_is_at_the_limit_is_taken():
    deep = "- " * MAX_DEPTH + "a\n"

    assert rendered(deep) == yaml.safe_load(deep)
