"""The workflow that `gate workflow init` writes: what a person would, comments included."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from string import Template

import yaml

from gate.errors import UsageError
from gate.wording import plain

PINS = {
    "actions/checkout": ("3d3c42e5aac5ba805825da76410c181273ba90b1", "v7.0.1"),
    "actions/setup-python": ("5fda3b95a4ea91299a34e894583c3862153e4b97", "v7.0.0"),
    "actions/upload-artifact": ("bbbca2ddaa5d8feaa63e36b76fdaad77386f024f", "v7.0.0"),
    "actions/attest": ("1e69f48acb82d1966a394da916b4c1698aa569d6", "v4.2.2"),
    "pypa/gh-action-pypi-publish": ("cef221092ed1bacb1cc03d23a2d87d1d172e277b", "v1.14.0"),
}
"""Commit and version of every action that the gate's own workflows, and those it writes, use."""
EMPTY = '{"include":[]}'
"""The matrix of a change that concerns no policy: GitHub refuses it, so a job asks first."""

_LISTED = 20
_REFUSED = re.compile(r"[\x00-\x1f\x7f]|\$\{\{")
_TORCH_INDEX = "https://download.pytorch.org/whl/cpu"


@dataclass(frozen=True, slots=True)
class Gated:
    """A policy, as far as its workflow depends on it."""

    file: str
    model: str
    extras: frozenset[str] = frozenset()
    """Of the package: what its candidate and data need installed."""
    trust: bool = False
    """Whether its candidate can run code on load."""
    registry: bool = False
    """Whether it names models of an MLflow registry."""


def compose(pattern: str, policies: Sequence[Gated], version: str, python: str = "3.12") -> str:
    """The text of a workflow that gates `policies`.

    Args:
        pattern: a glob that finds them, from the repository's root.
        policies: at least one.
        version: of the package to install.
        python: of the jobs.

    Raises:
        UsageError: the pattern holds what would be more than text in a workflow.
    """
    if _REFUSED.search(pattern):
        raise UsageError(
            f"{plain(pattern)!r} holds a control character or an expression of GitHub: "
            "name the policies by a plain glob, such as policies/*.yaml"
        )
    extras = sorted({extra for policy in policies for extra in policy.extras})
    package = f"int8-gate[{','.join(extras)}]=={version}" if extras else f"int8-gate=={version}"
    return _TEMPLATE.substitute(
        {name.partition("/")[2].replace("-", "_"): _pin(name) for name in PINS},
        policies=_comment(policies),
        pattern=_scalar(pattern),
        package=_scalar(package),
        python=_scalar(python),
        index=_TORCH if "torch" in extras else "",
        registry=_REGISTRY if any(policy.registry for policy in policies) else _NO_REGISTRY,
        trust=" --trust" if any(policy.trust for policy in policies) else "",
        empty=EMPTY,
    )


def _pin(name: str) -> str:
    commit, version = PINS[name]
    return f"{name}@{commit} # {version}"


def _scalar(text: str) -> str:
    """As YAML writes it on one line: quoted where it has to be."""
    written: str = yaml.safe_dump(text, width=10**6, allow_unicode=True)
    return written.removesuffix("...\n").strip()


def _comment(policies: Sequence[Gated]) -> str:
    lines = [f"#   {plain(one.file)} gates {plain(one.model)}" for one in policies[:_LISTED]]
    more = len(policies) - _LISTED
    return "\n".join([*lines, *([f"#   and {more} more"] if more > 0 else [])])


_TORCH = f"""
      # PyPI's Linux wheels of torch bring gigabytes of CUDA, and runners have no GPU.
      PIP_EXTRA_INDEX_URL: {_TORCH_INDEX}"""
_REGISTRY = """
      # A variable of the repository, so that pull requests from forks have it, too.
      MLFLOW_TRACKING_URI: ${{ vars.MLFLOW_TRACKING_URI }}"""
_NO_REGISTRY = """
      # Name your MLflow server here to keep a model's history; else it ends with the job.
      # MLFLOW_TRACKING_URI: https://mlflow.example.com"""

_TEMPLATE = Template("""\
# The INT8 gate: no model gets in whose INT8 release is not proven to be within its budgets.
$policies
#
# Written by `gate workflow init`, and yours to change; `gate workflow check` tells what must stay.
# Make `verdict` a required check in the branch's protection: it is red unless everything is green.
name: gate

on:
  pull_request:
  merge_group:
  workflow_dispatch: # gates every policy

permissions: {}

concurrency:
  group: gate-$${{ github.ref }}
  cancel-in-progress: $${{ github.event_name == 'pull_request' }}

defaults:
  run:
    shell: bash

jobs:
  plan:
    # Which policies does this change concern?
    name: plan
    runs-on: ubuntu-24.04
    timeout-minutes: 15
    permissions:
      contents: read # to check the repository out
    outputs:
      matrix: $${{ steps.plan.outputs.matrix }}
    env:
      PACKAGE: $package
    steps:
      - uses: $checkout
        with:
          fetch-depth: 0 # the base branch is compared with
          persist-credentials: false
      - uses: $setup_python
        with:
          python-version: $python
      - name: Install the gate
        run: python -m pip install --quiet "$$PACKAGE"
      - name: Plan
        id: plan
        env:
          POLICIES: $pattern
          BASE: $${{ github.event.pull_request.base.sha || github.event.merge_group.base_sha }}
        run: |
          options=()
          if [ -n "$$BASE" ]; then options+=(--changed-since="$$BASE"); fi
          matrix="$$(gate workflow matrix "$${options[@]}" -- "$$POLICIES")"
          echo "matrix=$$matrix" >> "$$GITHUB_OUTPUT"

  gate:
    name: gate $${{ matrix.name }}
    needs: plan
    if: needs.plan.outputs.matrix != '$empty'
    runs-on: ubuntu-24.04
    timeout-minutes: 60
    permissions:
      contents: read
    strategy:
      fail-fast: false # one model's failure says nothing about another's
      matrix: $${{ fromJSON(needs.plan.outputs.matrix) }}
    env:
      PACKAGE: $package$index$registry
    steps:
      - uses: $checkout
        with:
          fetch-depth: 0 # the base branch's budgets are what counts
          persist-credentials: false
      - uses: $setup_python
        with:
          python-version: $python
      - name: Install the gate
        run: python -m pip install --quiet "$$PACKAGE"
      - name: Gate
        env:
          POLICY: $${{ matrix.policy }}
          BASE: $${{ github.event.pull_request.base.sha || github.event.merge_group.base_sha }}
          OUT: $${{ runner.temp }}/gate
        run: |
          options=(--stage pr$trust --out="$$OUT")
          # A change may mend its recipe, but not loosen its own budgets: those are the base's.
          if [ -n "$$BASE" ]; then options+=(--judge-from="$$BASE"); fi
          gate run "$${options[@]}" -- "$$POLICY"
      - name: Keep the record, the rows, the models and the reports, above all when it is red
        if: always()
        uses: $upload_artifact
        with:
          name: gate-run-$${{ matrix.id }}
          path: $${{ runner.temp }}/gate
          if-no-files-found: ignore # a run that could not judge leaves none, and is red
      - name: Keep the record by itself, for the comment on the pull request
        if: always()
        uses: $upload_artifact
        with:
          name: gate-record-$${{ matrix.id }}
          path: $${{ runner.temp }}/gate/record.json
          if-no-files-found: ignore

  looser:
    # A check of its own: red where a policy lets more through than the base's, until code owners
    # merge that. The verdict does not wait for it: it counts by the base's budgets anyway.
    name: no policy is looser
    if: github.event_name == 'pull_request'
    runs-on: ubuntu-24.04
    timeout-minutes: 15
    permissions:
      contents: read
    env:
      PACKAGE: $package
    steps:
      - uses: $checkout
        with:
          fetch-depth: 0 # the base's policies are compared with
          persist-credentials: false
      - uses: $setup_python
        with:
          python-version: $python
      - name: Install the gate
        run: python -m pip install --quiet "$$PACKAGE"
      - name: Hold policies against the base's
        env:
          POLICIES: $pattern
          BASE: $${{ github.event.pull_request.base.sha }}
        run: gate policy diff --base="$$BASE" -- "$$POLICIES"

  verdict:
    # One name for the branch's protection, whatever the matrix holds: what is skipped, cancelled or
    # never planned is red, too.
    name: verdict
    if: always()
    needs: [plan, gate]
    runs-on: ubuntu-24.04
    timeout-minutes: 5
    permissions: {}
    steps:
      - name: Verdict
        env:
          PLAN: $${{ needs.plan.result }}
          GATE: $${{ needs.gate.result }}
          MATRIX: $${{ needs.plan.outputs.matrix }}
        run: |
          if [ "$$PLAN" = success ] && [ "$$MATRIX" = '$empty' ] && [ "$$GATE" = skipped ]; then
            echo "nothing to gate: this change concerns no policy" | tee -a "$$GITHUB_STEP_SUMMARY"
            exit 0
          fi
          echo "plan: $$PLAN, gate: $$GATE"
          [ "$$PLAN" = success ] && [ "$$GATE" = success ]
""")
