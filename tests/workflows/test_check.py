"""What makes a gate one that can be walked around, found with file, line and column."""

from pathlib import Path

import pytest

from gate.errors import PolicyError
from gate.workflows import check, read, write
from gate.workflows.cover import policies_below

GOOD = write.compose("policies/*.yaml", [write.Gated("policies/a.yaml", "a")], "0.1.0")
FILE = Path(".github/workflows/gate.yml")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "policies" / "library").mkdir(parents=True)
    (tmp_path / "policies" / "a.yaml").write_text("version: 1\nmodel: a\n")
    (tmp_path / "policies" / "library" / "base.yaml").write_text("judge: {confidence: 0.9}\n")
    return tmp_path


def wrong(root: Path, *texts: str, every: bool = False) -> list[tuple[int, int, str]]:
    """Line, column and message of every finding in gate.yml, then in gate1.yml …"""
    names = [FILE, *(FILE.with_stem(f"gate{i}") for i in range(1, len(texts)))]
    workflows = [read.parse(text, name) for text, name in zip(texts, names, strict=True)]
    found = check.findings(workflows, policies_below(root), root, every=every)
    return [(mark.line, mark.column, message) for mark, message in found]


def changed(old: str, new: str, text: str = GOOD) -> str:
    assert old in text
    return text.replace(old, new, 1)


def test_what_is_written_is_in_order(root: Path) -> None:
    assert wrong(root, GOOD, every=True) == []


CASES = {
    "no verdict": (
        "    if: always()\n    needs: [plan, gate]",
        "    needs: [plan, gate]",
        "no job can be",
    ),
    "verdict may be skipped": (
        "if: always()\n    needs",
        "if: success()\n    needs",
        "no job can be",
    ),
    "verdict forgets a job": ("needs: [plan, gate]", "needs: [plan]", "does not wait for gate"),
    "verdict does not look": ("${{ needs.gate.result }}", "success", "how gate ended"),
    "verdict forgives": (
        "    timeout-minutes: 5\n",
        "    timeout-minutes: 5\n    continue-on-error: true\n",
        "`continue-on-error` lets job verdict pass",
    ),
    "step forgives": (
        "      - name: Gate\n",
        "      - name: Gate\n        continue-on-error: ${{ true }}\n",
        "`continue-on-error` lets job gate pass",
    ),
    "shell forgives": ('-- "$POLICY"', '-- "$POLICY" || true', "drops the exit code"),
    "shell forgives later": (
        '-- "$POLICY"',
        '\\\n            -- "$POLICY" || :',
        "drops the exit code",
    ),
    "own judge": ("--judge-from=", "--judged=", "by the pull request's own policy"),
    "no pull request": ("  pull_request:\n", "", "no pull request is gated"),
    "target": ("  pull_request:\n", "  pull_request_target:\n  pull_request:\n", "stranger"),
    "paths": ("  pull_request:\n", "  pull_request: {paths: [policies/**]}\n", "stays pending"),
    "no permissions": ("permissions: {}\n\nconcurrency", "concurrency", "no `permissions:`"),
    "all permissions": ("permissions: {}\n\nc", "permissions: write-all\n\nc", "`write-all`"),
    "top write": (
        "permissions: {}\n\nc",
        "permissions: {contents: write}\n\nc",
        "may write contents",
    ),
    "gate writes": (
        "      contents: read\n    strategy",
        "      contents: write\n    strategy",
        "job gate runs the change's own models and may write contents",
    ),
    "job writes all": (
        "    permissions: {}\n    steps",
        "    permissions: write-all\n    steps",
        "`write-all` for job verdict",
    ),
    "tag": ("3d3c42e5aac5ba805825da76410c181273ba90b1 # v7.0.1", "v7", "is not pinned"),
    "short commit": ("3d3c42e5aac5ba805825da76410c181273ba90b1", "3d3c42e", "is not pinned"),
    "credentials": ("          persist-credentials: false\n", "", "checkout leaves the token"),
    "interpolation": ('-- "$POLICY"', '-- "${{ matrix.policy }}"', "becomes part of the script"),
    "head ref": ('-- "$POLICY"', "-- ${{ github['head_ref'] }}", "becomes part of the script"),
    "event": ('-- "$POLICY"', "-- ${{ GitHub . Event.issue.title }}", "becomes part"),
    "input": ('-- "$POLICY"', "-- ${{ format('{0}', inputs.policy) }}", "becomes part"),
    "all of it": ('-- "$POLICY"', "-- ${{ toJSON(github) }}", "becomes part"),
    "uncovered": (
        "POLICIES: policies/*.yaml",
        "POLICIES: policies/b*.yaml",
        "a.yaml is gated nowhere",
    ),
    "no such policy": ("POLICIES: policies/*", "POLICIES: policies/b*", "b*.yaml matches no file"),
}


@pytest.mark.parametrize("name", CASES)
def test_a_way_around_is_found(root: Path, name: str) -> None:
    old, new, message = CASES[name]
    found = wrong(root, changed(old, new))
    assert any(message in told for _, _, told in found), found
    assert all("write" in told or "delete" in told or "list" in told for _, _, told in found)


RUN = '          gate run "${options[@]}" -- "$POLICY"\n'
INDENT = " " * 10
GATE = 'gate run "${options[@]}" -- "$POLICY"'


@pytest.mark.parametrize(
    "script",
    [
        f"set +e\n{GATE}\necho done",
        f"set -u +o errexit\n{GATE}\necho done",
        f"{GATE} | tee log",
        f"{GATE} &",
        f"{GATE}; exit 0",
        f"{GATE} || printf red",
        f"{GATE} || (true)",
        f"{GATE} || {{ true; }}",
        f"{GATE} ||\n  true",
        f"{GATE} || /bin/true",
        f"{GATE} || code=$?",
        f"{GATE} && echo green",
        f"if {GATE}; then echo green; fi",
        f"if false; then\n  {GATE}\nfi",
        f"! {GATE}",
        f"while {GATE}; do :; done",
        f"trap 'exit 0' EXIT\n{GATE}",
        f"echo {GATE}",
        f"true # {GATE}",
        f'echo "$({GATE})"',
        f"export CODE=$({GATE})",
        f"CODE=$({GATE})",
        f"false && {GATE}",
        f"true || {GATE}",
        f"exit 0\n{GATE}",
        f"gate() {{ true; }}\n{GATE}",
        f"cat <<X\n{GATE}\nX",
    ],
)
def test_no_shell_forgives_a_red_gate(root: Path, script: str) -> None:
    written = "".join(f"{INDENT}{line}\n" for line in script.splitlines())
    found = wrong(root, changed(RUN, written))
    assert any("drops the exit code" in told for _, _, told in found), found


@pytest.mark.parametrize(
    "script",
    [
        f"timeout 3600 {GATE}",
        f"python -m {GATE}",
        f"uv run --frozen {GATE}",
        f'CUDA_VISIBLE_DEVICES="" {GATE} 2>&1',
        f"echo 'a; b | c'  # gate run || true\n{GATE}",
        f'if [ -n "$X" ]; then echo x; fi\n{GATE} --out "$(mktemp -d)"\necho done',
        f'for one in a b; do\n  {GATE} "$one"\ndone',
    ],
)
def test_a_plain_command_is_in_order(root: Path, script: str) -> None:
    written = "".join(f"{INDENT}{line}\n" for line in script.splitlines())
    assert wrong(root, changed(RUN, written)) == []


STEP = "      - name: Gate\n"
BASE = "BASE: ${{ github.event.pull_request.base.sha || github.event.merge_group.base_sha }}\n"
JUDGED = f"{INDENT}{BASE}{INDENT}OUT"
PLANNED = f"{INDENT}{BASE}        run"


@pytest.mark.parametrize("condition", ["false", "github.actor != 'me'", "${{ always() && false }}"])
def test_the_step_that_gates_is_not_skipped(root: Path, condition: str) -> None:
    text = changed(STEP, f"{STEP}        if: {condition}\n")
    assert "a step that is skipped passes" in str(wrong(root, text))
    assert wrong(root, changed(STEP, STEP + "        if: ${{ !cancelled() }}\n")) == []


@pytest.mark.parametrize("shell", ["bash {0}", "bash {0} || true", "sh -x {0}"])
def test_a_shell_of_ones_own_stops_at_a_failure(root: Path, shell: str) -> None:
    assert "goes on after" in str(wrong(root, changed(STEP, f"{STEP}        shell: {shell}\n")))
    whole = changed("    shell: bash\n", f"    shell: {shell}\n")
    assert "goes on after" in str(wrong(root, whole))
    strict = changed(STEP, f"{STEP}        shell: bash --noprofile -eo pipefail {{0}}\n")
    assert wrong(root, strict) == []


@pytest.mark.parametrize(
    "base",
    [
        "HEAD",
        '""',
        "${{ github.sha }}",
        "${{ github.head_ref }}",
        "origin/${{ github.event.pull_request.head.ref }}",
        "${{ github.event.pull_request.base.sah }}",
        "${{ github.event.pull_request.base.sha && github['sha'] }}",
    ],
)
def test_the_base_is_the_base(root: Path, base: str) -> None:
    text = changed(JUDGED, f"{INDENT}BASE: {base}\n{INDENT}OUT")
    assert "own policy" in str(wrong(root, text))
    text = changed(PLANNED, f"{INDENT}BASE: {base}\n        run")
    assert "since the change itself" in str(wrong(root, text))


@pytest.mark.parametrize(
    "base", ["origin/main", "origin/${{ github.base_ref }}", "${{ vars.BASE }}"]
)
def test_a_branch_is_a_base(root: Path, base: str) -> None:
    text = changed(PLANNED, f"{INDENT}BASE: {base}\n        run")
    assert wrong(root, changed(JUDGED, f"{INDENT}BASE: {base}\n{INDENT}OUT", text)) == []


VERDICT = GOOD[GOOD.index('        run: |\n          if [ "$PLAN"') :]


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ('echo "$PLAN $GATE"', "green whatever"),
        ('test "$PLAN" != failure && test "$GATE" != failure', "green whatever"),
        ('test "$PLAN$GATE" = successsuccess || true', "drops an exit code"),
    ],
)
def test_a_verdict_demands_success(root: Path, script: str, message: str) -> None:
    assert message in str(wrong(root, changed(VERDICT, f"        run: {script}\n")))


def test_a_verdict_is_not_skipped(root: Path) -> None:
    step = "      - name: Verdict\n"
    assert "green whatever" in str(wrong(root, changed(step, f"{step}        if: failure()\n")))
    told = "        if: needs.plan.result != 'success' || needs.gate.result != 'success'\n"
    text = changed(VERDICT, "        run: exit 1\n")
    assert wrong(root, changed(step, step + told, text)) == []


def test_a_finding_points_at_the_expression_itself(root: Path) -> None:
    text = changed('-- "$POLICY"', '-- "${{ matrix.policy }}"')
    ((line, column, _),) = wrong(root, text)
    assert text.splitlines()[line - 1][column - 1 :].startswith("${{ matrix.policy }}")


@pytest.mark.parametrize(
    "expression",
    [
        "github.sha",
        "runner.temp",
        "github.event_name",
        "secrets.TOKEN",
        "github.run_id",
        "'inputs'",
    ],
)
def test_what_nobody_outside_chooses_may_stand_in_a_script(root: Path, expression: str) -> None:
    assert wrong(root, changed('-- "$POLICY"', f"-- ${{{{ {expression} }}}}")) == []


def test_scripts_of_github_script_are_scripts(root: Path) -> None:
    step = f"""
      - uses: actions/github-script@{"a" * 40}
        with:
          script: console.log("${{{{ github.event.issue.title }}}}")
"""
    found = wrong(root, changed('-- "$POLICY"\n', '-- "$POLICY"' + step))
    assert [message for _, _, message in found if "becomes part" in message]


PINNED = """\
on: pull_request
permissions: {{}}
jobs:
  gate:
    uses: {uses}
    with: {{policies: policies/*.yaml}}
"""


@pytest.mark.parametrize(
    "uses",
    ["$/.github/workflows/gate1.yml", "./.github/workflows/gate1.yml"],
)
def test_a_call_of_a_workflow_that_gates_is_a_gate(root: Path, uses: str) -> None:
    called = changed("on:\n  pull_request:\n", "on:\n  workflow_call:\n")
    assert wrong(root, PINNED.format(uses=uses), called) == []
    assert "no job here runs" in str(wrong(root, PINNED.format(uses=uses), "on: push\njobs: {}\n"))


def test_a_matrix_of_calls_needs_a_verdict(root: Path) -> None:
    text = PINNED.format(uses=f"o/r/.github/workflows/gate.yml@{'a' * 40}")
    assert wrong(root, text) == []
    matrix = text + "    strategy: {matrix: {x: [1, 2]}}\n"
    assert "no job can be required" in str(wrong(root, matrix))


def test_a_default_covers_only_callers_that_leave_it(root: Path) -> None:
    inputs = "on:\n  workflow_call:\n    inputs: {policies: {default: policies/*.yaml}}\n"
    called = changed("on:\n  pull_request:\n  merge_group:\n", inputs)
    called = changed("POLICIES: policies/*.yaml", "POLICIES: ${{ inputs.policies }}", called)
    caller = PINNED.format(uses="./.github/workflows/gate1.yml")
    other = caller.replace("policies/*.yaml", "policies/b.yaml")
    assert wrong(root, caller.replace("    with: {policies: policies/*.yaml}\n", ""), called) == []
    assert "a.yaml is gated nowhere" in str(wrong(root, other, called))


@pytest.mark.parametrize(
    "action", ["$/.github/actions/gate", f"o/r/.github/actions/gate@{'a' * 40}"]
)
@pytest.mark.parametrize("base", ["", "${{ github.event.pull_request.base.sha }}"])
def test_the_action_gates_by_the_bases_policy(root: Path, action: str, base: str) -> None:
    text = f"""\
on: [pull_request]
permissions: {{}}
jobs:
  gate:
    runs-on: ubuntu-24.04
    steps:
      - uses: {action}
        with: {{policy: policies/*.yaml, judge-from: "{base}"}}
"""
    assert ("own policy" in str(wrong(root, text))) is (base == "")


@pytest.mark.parametrize(
    "key", ["if: github.actor != 'x'", "needs: other", "strategy: {matrix: {}}"]
)
def test_a_job_that_may_be_skipped_cannot_be_required(root: Path, key: str) -> None:
    text = f"""\
on: [pull_request]
permissions: {{}}
jobs:
  other: {{runs-on: ubuntu-24.04, steps: [{{run: "true"}}]}}
  gate:
    {key}
    runs-on: ubuntu-24.04
    steps:
      - run: gate run policies/*.yaml --judge-from "$BASE"
"""
    assert "no job can be required" in str(wrong(root, text))
    assert wrong(root, text.replace(f"    {key}\n", "")) == []


def test_other_workflows_are_none_of_its_business(root: Path) -> None:
    other = "on: push\njobs: {a: {runs-on: x, steps: [{uses: actions/checkout@v4}]}}\n"
    assert wrong(root, GOOD, other) == []
    assert "is not pinned" in str(wrong(root, GOOD, other, every=True))


def test_nothing_gates(root: Path) -> None:
    other = "on: push\njobs: {a: {runs-on: x, steps: [{run: my-gate run; ./gate run}]}}\n"
    assert "no job here runs `gate run`" in str(wrong(root, other))


def test_files_that_are_extended_need_no_gate(root: Path) -> None:
    assert policies_below(root) == [Path("policies/a.yaml")]
    (root / "policies" / "broken.yml").write_text("a: [")
    assert Path("policies/broken.yml") in policies_below(root)


# ── reading ───────────────────────────────────────────────────────────────────────────────


def test_on_is_a_key_and_an_empty_trigger_is_one() -> None:
    found = read.parse("on:\n  pull_request:\n", FILE)
    assert list(found.triggers) == ["pull_request"]
    assert list(read.parse("on: push\n", FILE).triggers) == ["push"]
    assert list(read.parse("on: [push, pull_request]\n", FILE).triggers) == ["push", "pull_request"]


def test_an_alias_is_read_where_it_stands() -> None:
    text = "permissions: {}\njobs:\n  a: &a {steps: [{run: 'echo ${{ inputs.x }}'}]}\n  b: *a\n"
    assert len(list(check.safety.unsafe(read.parse(text, FILE)))) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not"),
        ("- a\n", "is not"),
        ("a: [", "not YAML"),
        ("a: \x00", "not YAML"),
        ("a: 1\na: 2\n", "duplicate key 'a'"),
        ("a: &a {b: 1}\nc: {<<: *a}\n", "merge keys"),
        ("? [a]\n: 1\n", "plain keys"),
        ("[" * 300 + "]" * 300, "not YAML|is not|deeper"),
        ("a: " + "[" * 60 + "]" * 60, "deeper"),
        ("a: &a [*a]\n", "deeper or larger|not YAML"),
    ],
)
def test_what_github_would_not_take_is_refused(text: str, message: str) -> None:
    with pytest.raises(PolicyError, match=message) as error:
        read.parse(text, FILE)
    assert str(error.value).startswith(f"{FILE}:")


def test_a_bomb_of_aliases_is_refused() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 9)]
    with pytest.raises(PolicyError, match="deeper or larger"):
        read.parse("\n".join(lines), FILE)


@pytest.mark.parametrize(
    ("raw", "message"), [(b"\xff", "UTF-8"), (b"a: " + b"x" * 1_000_001, "over 1,000,000 bytes")]
)
def test_files_that_are_no_workflows(tmp_path: Path, raw: bytes, message: str) -> None:
    (tmp_path / "w.yml").write_bytes(raw)
    with pytest.raises(PolicyError, match=message):
        read.load(tmp_path / "w.yml")
    with pytest.raises(PolicyError, match="cannot be read"):
        read.load(tmp_path)


def test_what_only_tells_of_looser_policies_stands_apart(root: Path) -> None:
    """The verdict need not wait for it, and what it names is gated by nobody for that."""
    assert "  looser:\n" in GOOD
    assert wrong(root, GOOD) == []
    waited = changed("needs: [plan, gate]", "needs: [plan]")
    assert "does not wait for gate" in str(wrong(root, waited))
    gating = changed("gate policy diff --base", "gate run p.yaml; gate policy diff --base")
    assert "does not wait for looser" in str(wrong(root, gating))
