"""README.md and LICENSE of a bundle, from what its manifest says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from nexus_core.bundle.manifest import CapabilityFacts, ContractFacts, Manifest, TeacherFacts

NOT_USED = ("dropped", "merged", "absent")  # how the fate of a teacher begins that gave this bundle nothing
_STORED = {
    "fp32": "All weights are stored in 32 bits, exactly as they were verified.",
    "fp16": "All weights are stored in 16 bits.",
    "int8": "The backbone's projections are stored in 8 bits, everything else in 16.",
    "nf4": "The backbone's projections are stored in 4 bits (NF4), everything else in 16.",
}


def readme(manifest: Manifest) -> str:
    """How to use it, what it kept, whom it learned from."""
    open_ones = [name for name, facts in manifest.capabilities.items() if not facts.isolated]
    first = (open_ones or list(manifest.capabilities))[0]
    flag = "" if open_ones else ", enable_uncensored=True"
    return "\n".join(
        [
            f"# {manifest.name}",
            "",
            "One offline model with the capabilities below. It needs none of the teachers that it learned from.",
            f"In Python, from the directory that `{manifest.name}` lies in (elsewhere, or renamed, give its path):",
            "",
            "```python",
            "from nexus import NexusModel",
            "",
            f'model = NexusModel.load("{manifest.name}")  # every file is checked against its hash',
            f'print(model.generate("Hello", capability="{first}"{flag}))',
            "```",
            "",
            "## What it kept",
            "",
            "Measured with the teachers out of reach, on the same held-out samples; the worst capability first.",
            "",
            *_table(
                ("capability", "metric", "teacher", "student", "retained", "95 % interval", "n", "contract"),
                [_row(name, facts) for name, facts in _worst_first(manifest.capabilities)],
            ),
            "",
            f"{_STORED[manifest.quantisation.kind]} The figures are those of the weights as they are stored here.",
            *_isolated(manifest.capabilities),
            "",
            "## Teachers",
            "",
            *_table(("teacher", "licence", "what became of it"), [_teacher(t) for t in manifest.teachers]),
            "",
            "`manifest.json` has the hash of every file, `verify_report.json` how the figures were measured.",
            "",
        ]
    )


def licence(manifest: Manifest) -> str:
    """Whose terms hold for the weights. Nothing is granted here that the teachers' owners did not grant."""
    used = [t for t in manifest.teachers if not t.fate.startswith(NOT_USED)]
    start = manifest.student.backbone_source
    named = any(t.id == start for t in used)
    source = (
        "random numbers" if start == "random" else start if named else f"{start}, whose licence is not recorded here"
    )
    return "\n".join(
        [
            f"The weights of {manifest.name} were distilled from outputs and activations of the teachers below, and start",
            f"from {source}. What the licences say about derived works holds for this",
            "bundle. Nothing further is granted by this file.",
            "",
            *(f"{teacher.id}: {teacher.licence or 'no licence is stated'}" for teacher in used),
            *([] if used else ["No teacher is recorded."]),
            "",
        ]
    )


def headroom(facts: CapabilityFacts) -> float:
    """How far a capability is on the right side of its contract, in units of the limit, as the gate counts it."""
    contract, result = facts.contract, facts.result
    share = [] if contract.retain_fraction is None else [contract.retain_fraction * result.teacher_score]
    limits = [*share, *([] if contract.minimum is None else [contract.minimum])]
    higher = contract.direction == "higher"
    limit = max(limits, default=0.0) if higher else min(limits, default=0.0)
    better = result.student_score - limit if higher else limit - result.student_score
    return better / (abs(limit) or 1.0)


def _worst_first(capabilities: Mapping[str, CapabilityFacts]) -> list[tuple[str, CapabilityFacts]]:
    return sorted(capabilities.items(), key=lambda item: (headroom(item[1]), item[0]))


def _row(name: str, facts: CapabilityFacts) -> Sequence[str]:
    result = facts.result
    ratio = "-" if result.ratio is None else f"{result.ratio:.3f}"
    interval = "-" if result.ci95 is None else f"{result.ci95[0]:.3f} to {result.ci95[1]:.3f}"
    scores = [f"{result.teacher_score:.3f}", f"{result.student_score:.3f}", ratio, interval, str(result.n)]
    return [name, facts.contract.metric, *scores, contract_words(facts.contract)]


def contract_words(contract: ContractFacts) -> str:
    """What was to be kept."""
    sign = "at least" if contract.direction == "higher" else "at most"
    asked = [] if contract.retain_fraction is None else [f"{sign} {contract.retain_fraction:g} of the teacher"]
    asked += [] if contract.minimum is None else [f"{sign} {contract.minimum:g}"]
    return " and ".join(asked)


def _teacher(teacher: TeacherFacts) -> Sequence[str]:
    return [teacher.id, teacher.licence or "not stated", teacher.fate]


def _isolated(capabilities: Mapping[str, CapabilityFacts]) -> list[str]:
    names = [f"`{name}`" for name, facts in capabilities.items() if facts.isolated]
    if not names:
        return []
    return ["", f"{', '.join(names)}: isolated, and never built unless it is asked for with `enable_uncensored=True`."]


def _table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    cells = [headers, ["---"] * len(headers), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return [f"| {' | '.join(row)} |" for row in cells]
