"""What a policy leaves open and a candidate says of itself: its classes, and its tokenizer."""

from dataclasses import replace
from pathlib import Path

from gate import tokens
from gate.errors import PolicyError
from gate.policy_file import LoadedPolicy, digest
from gate.wording import few

_BUILD = "build"
_TOKENIZER = (_BUILD, "preprocess", "tokenizer")


def adopted(
    loaded: LoadedPolicy, *, name: str, classes: tuple[str, ...], tokenizer: Path | None
) -> tuple[LoadedPolicy, tuple[str, ...]]:
    """The policy with what the candidate `name` says filled in, and what that was, in words.

    Its digest is that of the policy as it is then judged by.

    Args:
        loaded: the policy, as written.
        name: the candidate's.
        classes: its label map, in the order of its outputs; empty where it has none.
        tokenizer: its `tokenizer.json`; None where it has none.

    Raises:
        PolicyError: the policy contradicts the candidate, or wants a tokenizer that neither names.
    """
    _demand_same_classes(loaded, name, classes)
    _demand_same_tokens(loaded, name, tokenizer)
    build = loaded.policy.build
    filled = {
        "classes": build.classes or classes,
        "preprocess": tokens.with_own(build.preprocess, tokenizer),
    }
    new = build.model_copy(update=filled)
    steps = []
    if new.classes != build.classes:
        steps.append(f"classes from its label map: {few(classes)}")
    if new.preprocess != build.preprocess:
        steps.append("its own tokenizer.json")
    if not steps:
        return loaded, ()
    policy = loaded.policy.model_copy(update={"build": new})
    return replace(loaded, policy=policy, sha256=digest(policy)), tuple(steps)


def _demand_same_classes(loaded: LoadedPolicy, name: str, classes: tuple[str, ...]) -> None:
    written = loaded.policy.build.classes
    if written and classes and written != classes:
        raise PolicyError(
            f"`build.classes` are {few(written)}, and the label map of candidate {name} says "
            f"{few(classes)}, in this order: delete `classes`, or mend the model's `id2label`",
            loaded.mark(_BUILD, "classes"),
        )


def _demand_same_tokens(loaded: LoadedPolicy, name: str, tokenizer: Path | None) -> None:
    """Ids of another vocabulary are other words to the model."""
    preprocess = loaded.policy.build.preprocess
    spec = None if preprocess is None else preprocess.tokenizer
    if spec is None:
        return
    if spec.file is None:
        if tokenizer is None:
            raise PolicyError(
                f"`tokenizer` names no `file`, and candidate {name} brings no tokenizer.json of "
                "its own: name one, or save the model with its tokenizer (`save_pretrained`)",
                loaded.mark(*_TOKENIZER),
            )
        return
    if tokenizer is None:
        return
    file = tokens.place(spec, loaded.base)
    if tokens.vocabulary(file) != tokens.vocabulary(tokenizer):
        raise PolicyError(
            f"{spec.file} has another vocabulary than the tokenizer that candidate {name} brings: "
            "delete `file` to use the model's own, or name the one that it was trained with",
            loaded.mark(*_TOKENIZER, "file"),
        )
