"""The template language: what it can say, what it cannot reach, and that no value escapes its quotes."""

from __future__ import annotations

import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from matterstack.errors import CampaignError, TemplateError
from matterstack.spec.load import load_campaign
from matterstack.template.forms import render, render_argv, render_command, render_pattern, render_text
from matterstack.template.language import parse, references
from matterstack.template.shell import shell_places
from tests.conftest import HEAD

SCOPE = {
    "params": {"metals": ["Al", "Cu"], "n": 3, "flag": True, "nothing": None, "e hull": 1, "lambda": 2},
    "response": {"approve": {"metals": ["Al"], "max": 4}},
}

EXPRESSIONS = {
    "params.n": 3,
    "params.metals[0]": "Al",
    "params.metals[-1]": "Cu",
    "params['e hull']": 1,
    "params.lambda": 2,
    "'a\\'b'": "a'b",
    '"}}"': "}}",
    "-1.5": -1.5,
    "true": True,
    "null": None,
    '"Al" in response.approve.metals': True,
    '"Au" not in response.approve.metals': True,
    "len(params.metals) == 2": True,
    "params.n >= 3 and not params.flag": False,
    "params.n < 3 or params.flag": True,
    "(params.n > 1) and (params.n in [1, 2, 3])": True,
    "not not params.flag": True,
}


@pytest.mark.parametrize(("expression", "value"), EXPRESSIONS.items(), ids=list(EXPRESSIONS))
def test_an_expression_has_its_value(expression, value):
    assert render("${{ " + expression + " }}", SCOPE) == value


MISTAKES = {
    "${{ params.metls }}": "'metls' is not in params (did you mean 'metals'?); it has metals, n, flag, nothing, e hull, lambda",
    "${{ parms.n }}": "'parms' is not known here (did you mean 'params'?); known are params, response",
    "${{ params.metals[5] }}": "params.metals has 2 items, [5] is out of range",
    "${{ params.metals.x }}": "params.metals is a list: its items are params.metals[0] and so on, not 'x'",
    "${{ params.n.real }}": "params.n is 3, it has no 'real'",
    "${{ params.n": "'${{ params.n' has no closing '}}'",
    "${{ }}": "an empty template",
    "${{ 1 < 2 < 3 }}": "two comparisons in a row in '1 < 2 < 3'; join them with 'and'",
    "${{ params.n + 1 }}": "'+ 1' is not part of a template expression; there is no arithmetic in templates",
    "${{ open('x') }}": "'open(…)' is not a function of templates (only len, list and raw are)",
    "${{ params.n params.n }}": "'params' does not belong in 'params.n params.n'",
    "${{ 1 < 'a' }}": "1 < 'a' cannot be compared",
    "a ${{ params.metals }}": "${{ params.metals }}: a list cannot be inserted into text",
    "a ${{ params.nothing }}": "${{ params.nothing }}: null cannot be inserted into text",
    "a ${{ params }}": "${{ params }}: a mapping cannot be inserted into text",
}


@pytest.mark.parametrize(("text", "message"), MISTAKES.items(), ids=list(MISTAKES))
def test_a_mistake_is_said_in_words(text, message):
    with pytest.raises(TemplateError) as caught:
        render(text, SCOPE)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "attempt",
    ["().__class__", "params.__class__", "params.metals.append", "''.join", "params.get('n')", "lambda: 1",
     "__import__('os')", "[x for x in params]", "params.n.__add__(1)", "{}.x", "f'{params}'", "params['__class__']"],
)  # fmt: skip
def test_nothing_of_python_can_be_reached(attempt):
    with pytest.raises(TemplateError):
        render("${{ " + attempt + " }}", SCOPE)


@given(st.text(max_size=60))
def test_any_text_parses_or_is_refused_in_words(text):
    for candidate in (text, "${{" + text + "}}"):
        try:
            parse(candidate)
        except TemplateError as error:
            assert "\n" not in str(error)


def test_deep_nesting_is_refused():
    with pytest.raises(TemplateError, match="nested deeper"):
        parse("${{ " + "(" * 300 + "1" + ")" * 300 + " }}")


def test_a_value_that_is_exactly_one_template_keeps_its_type():
    assert render({"a": ["${{ params.n }}", "x${{ params.n }}"]}, SCOPE) == {"a": [3, "x3"]}


def test_a_doubled_dollar_is_literal_and_the_shells_own_dollars_are_left_alone():
    assert render_text("$${{ x }} $HOME ${HOME} ${{ params.n }}", SCOPE) == "${{ x }} $HOME ${HOME} 3"


def test_in_instructions_a_list_is_joined():
    assert render_text("of ${{ params.metals }}", SCOPE, join_lists=True) == "of Al, Cu"


def test_a_list_in_argv_becomes_several_words():
    assert render_argv(["x", "${{ params.metals }}", "-${{ params.n }}"], SCOPE) == ["x", "Al", "Cu", "-3"]


def test_references_are_dotted_names():
    assert set(references({"a": ["${{ response.approve.metals[0] }} ${{ params['e hull'] }}"]})) == {
        ("response", "approve", "metals"),
        ("params", "e hull"),
    }


@pytest.mark.parametrize("value", ["a/b", "..", "."])
def test_a_value_in_a_path_cannot_leave_its_folder(value):
    with pytest.raises(TemplateError, match=r"use \$\{\{ task.label \}\}"):
        render_pattern("x/${{ v }}", {"v": value}, escape=False)


def test_a_wildcard_in_a_value_is_literal():
    assert render_pattern("x/${{ v }}/*", {"v": "a*[1]?"}, escape=True) == "x/a[*][[]1][?]/*"


X = "${{ x }}"
PLACES = {  # command -> where each template stands
    f"a {X} b={X}": [None, None],
    f"'a {X}'": ["single quotes"],
    f'"a {X}"': ["double quotes"],
    f'"$(echo {X})"': [None],
    f"`echo {X}`": ["backticks"],
    f"echo # don't\n{X}": [None],
    f"cat <<EOF\n{X}\nEOF\n{X}": ["a here-document", None],
    f"cat <<-'E F' > y\n\t{X}\n\tE F\n{X}": ["a here-document", None],
    f"cat <<A <<B\nA\n{X}\nB\n{X}": ["a here-document", None],
    f"cat <<< {X}": [None],
    f"a\\'{X}": [None],
    f"$'a\\'{X}'": ["single quotes"],
    f'${{a:-"{X}"}}': ["double quotes"],
    f"echo $((1 << 2)) {X}": [None],
    f"echo $(( {X} )) $[ {X} ] ${{a:{X}:1}} a[{X}]=1 {X}": ["arithmetic", "arithmetic", "${ }", "arithmetic", None],
    f"echo a \\\n# it's off\necho '{X}'": ["single quotes"],
    f"echo $(date +%Y)#'{X}'": ["single quotes"],
    f"(echo a)#'\n{X}": [None],
    f"`# {X}` {X}": ["backticks", None],
    f"grep -c a[bc <<'EOF'\n{X}\nEOF\n{X}": ["a here-document", None],
    f"x=a#b' {X}'": ["single quotes"],
    f"# {X}\n{X}": ["a comment", None],
    f'"a" "{X}" b': ["double quotes"],
    f'$( echo "$(b)" ) "{X}"': ["double quotes"],
    f"(a; 'b' {X}) {X}": [None, None],
    f"a \\{X} \\\\{X}": ["a word behind a backslash", None],
    f'echo "$(case a in a) echo "{X}" ;; esac)"': ["double quotes"],
    f'echo "$(case a in (a) echo {X} ;; esac)" "{X}"': [None, "double quotes"],
    f"$(echo case) {X} '{X}'": [None, "single quotes"],
    f"if true; then case x in a|b) echo {X};; *) '{X}';; esac; fi; {X}": [None, "single quotes", None],
    f"if ((1<<2)); then echo; fi\n{X}": [None],
    f"y=$(( (1<<4) ))\n{X}": [None],
    f"arr[1<<2]=3\n{X}": [None],
    f'echo "${{X:-\'}}" {X}': [None],
    f"echo a[b] '{X}' [ {X} ]": ["single quotes", None],
    f"( (echo a) ; (echo {X}) )": [None],
}


@pytest.mark.parametrize(("text", "places"), PLACES.items(), ids=list(PLACES))
def test_the_scanner_knows_where_in_the_shells_syntax_a_template_stands(text, places):
    assert [place for _, place in shell_places(text)] == places


def test_inside_quotes_is_an_error_that_says_how_to_write_it():
    with pytest.raises(TemplateError) as caught:
        render_command('echo "${{ x }}"', {"x": 1})
    assert str(caught.value) == (
        "${{ x }} is inside double quotes: move it outside the quotes; values are quoted automatically, "
        "or write ${{ raw(x) }} if it must be inserted as it is"
    )


def test_raw_is_the_explicit_way_out():
    assert render_command('echo "${{ raw(x) }}"', {"x": "a b"}) == 'echo "a b"'


@pytest.mark.parametrize(
    ("command", "x", "printed"),
    [("printf %s ${{ x }}> out; cat out", 3, "3"), ("printf %s%s a ${{ x }}>>out; cat out", "12", "a12"),
     ("printf %s $(( ${{ x }} * 2 ))", 21, "42"), ("type ${{ x }} >/dev/null 2>&1 || printf none", "A=b", "none"),
     ("printf %s ${{ x }}", "~", "~"), ("printf %s ${{ x }}", "{a,b}", "{a,b}"), ("case ${{ x }} in esac) printf yes;; esac", "esac", "yes")],
)  # fmt: skip
def test_a_value_is_a_word_and_nothing_else(tmp_path, command, x, printed):
    script = render_command(command, {"x": x})
    done = subprocess.run(
        ["bash", "-c", script.replace("in esac)", "in (esac)")], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.stdout == printed


@pytest.mark.parametrize(
    "command", ["echo $(( ${{ x }} ))", "echo $[ ${{ x }} ]", "echo ${a:${{ x }}:1}", "a[${{ x }}]=1"]
)
@pytest.mark.parametrize("x", ["$(touch pwned)", "a", ["1", "2"], "1+1"])
def test_in_arithmetic_only_a_number_can_stand(command, x):
    with pytest.raises(TemplateError, match="where only a number can"):
        render_command(command, {"x": x})


NASTY = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=30)


@given(st.lists(NASTY, min_size=1, max_size=4), st.sampled_from(["bash", "sh"]))
def test_the_shell_gets_every_value_unharmed(values, shell):
    script = render_command("printf '%s\\0' ${{ x }}\n# ${{ x }}\nprintf '%s\\0' $(printf end)", {"x": values})

    done = subprocess.run([shell, "-e"], input=script.encode(), capture_output=True, check=True)

    assert done.stdout.decode().split("\0")[:-1] == [*values, "end"]


# Pieces of shell, to be put together at random around a template: whatever the scanner makes of them, a value must
# never become a command. Nothing here does harm when it runs.
PIECES = ["echo ", "cat ", "'", '"', "$(", ")", "(", "`", "\\", "\n", " ", "#", "((", "))", "$((", "${a:-", "${a}", "}", "<<E\n",
          "<<'E'\n", "<<-E\n", "\nE\n", "<<<", "case a in a) ", ";; esac", "[", "]", "=", "; ", "| cat ", "&& ", "if true; then ",
          "; fi", "1", "a", "$'", "\\\n", "{ ", "; }", "!", "$[", "a[", "]=", "for i in ", "; do ", "; done", "${{ x }}"]  # fmt: skip


@given(st.lists(st.sampled_from(PIECES), max_size=9), st.lists(st.sampled_from(PIECES), max_size=9))
def test_a_value_never_becomes_a_command_whatever_stands_around_it(tmp_path_factory, before, after):
    text = "".join(before) + "${{ x }}" + "".join(after)
    folder = tmp_path_factory.getbasetemp() / "quoting"
    folder.mkdir(exist_ok=True)
    for value in (
        "$(touch pwned)",
        "';touch pwned;'",
        '";touch pwned;"',
        "\n touch pwned\n",
        "`touch pwned`",
        "a);touch pwned #",
    ):
        try:
            script = render_command(text, {"x": value})
        except TemplateError:
            continue
        (folder / "pwned").unlink(missing_ok=True)
        subprocess.run(["bash"], input=script.encode(), cwd=folder, capture_output=True, timeout=20)
        assert not (folder / "pwned").exists(), script


def test_a_case_within_a_substitution_does_not_let_a_value_out_of_its_quotes(tmp_path):
    (tmp_path / "c.yaml").write_text(
        HEAD + "params: {x: $(touch pwned)}\n"
        'tasks: {a: {command: "echo \\"$(case a in a) echo \\"${{ params.x }}\\" ;; esac)\\""}}\n'
    )
    with pytest.raises(CampaignError, match="is inside double quotes"):
        load_campaign(tmp_path / "c.yaml")


def test_a_value_that_bash_would_evaluate_again_can_only_be_a_number(bench):
    bench.start(
        "params: {n: 3}\ntasks: {a: {command: 'if [[ ${{ params.n }} -eq 3 ]]; then echo a >> WITNESS; fi; let x=${{ params.n }}'}}\n"
    )
    bench.step_until_over()
    assert bench.witnessed() == ["a"]
