"""A bundle in another form, tried before it is given out: written beside, asked what the gate asked, then put in place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from nexus_core.atomic import writing
from nexus_core.bundle.disk import read_manifest
from nexus_core.bundle.export.card import ExportReport, Line, failure
from nexus_core.bundle.export.files import becoming
from nexus_core.bundle.export.forms import FORMS, Made, Wanted
from nexus_core.bundle.manifest import LICENSE, REPORT, CapabilityFacts, Manifest
from nexus_core.bundle.reader import Bundle, open_bundle
from nexus_core.errors import ContractFailed, DataError, UsageError
from nexus_core.evaluation import Answerer, Answers, draw, evaluate
from nexus_core.gate.verdict import PASS, judge
from nexus_core.hf.prompts import prompt_text
from nexus_core.plugins import Plugins
from nexus_core.profiling.reference import gate_request
from nexus_core.student.answer import StudentAnswerer
from nexus_core.student.files import Student
from nexus_core.types import CapabilityMetric, Contract, Direction, SampleRequest, Split, Thresholds

RULE_TEXTS = 100  # of each capability; a rule that cuts one text in a hundred otherwise is then seen in two of three
# Without an adapter there is no contract, and the answers are the bundle's own or the export is wrong. Other kernels
# round otherwise, which in a long answer now and then turns a token; this many answers may be others for it.
OTHER_ANSWERS = 0.05
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, eq=False)
class ExportOrder:
    """`capabilities`: one at most for hf and gguf (none: the plain backbone); for peft none means all.

    `samples` None: as many as the gate asked. `allow_below`: give it out whatever it scores.
    """

    bundle: Path
    out: Path
    to: str
    plugins: Plugins
    capabilities: tuple[str, ...] = ()
    dtype: str = "fp16"
    samples: int | None = None
    allow_below: bool = False
    allow_isolated: bool = False
    say: Say = field(default=lambda text: None)


def export(order: ExportOrder) -> ExportReport:
    """The export in `order.out` with its report, or `ContractFailed` and nothing there."""
    form = FORMS[order.to]
    form.check(order.dtype)
    with becoming(order.out) as draft:
        bundle = open_bundle(order.bundle)
        names = _names(order, bundle.manifest)
        student = _student(bundle, names)
        asked = names or [name for name, facts in bundle.manifest.capabilities.items() if not facts.isolated]
        metrics = {name: order.plugins.capability_metric(name) for name in asked}
        wanted = Wanted(draft, student, tuple(names), order.dtype, tuple(_texts(student, metrics)))
        order.say(f"writing {order.to}")
        with writing(order.out):
            made = form.write(wanted)
        lines: list[Line] = []
        for name, metric in metrics.items():
            order.say(f"asking {name}")
            for line in _lines(order, bundle, student, _Asked(name, bool(names), metric), made):
                order.say(line.words())
                lines.append(line)
        report = _report(order, bundle, wanted, made, lines)
        if report.failing and not order.allow_below:
            raise ContractFailed(
                f"there is no export: {failure(report)}",
                "--allow-below-contract writes it with its report all the same",
            )
        with writing(order.out):
            report.write(draft, made.use, bundle.text(LICENSE))
    return report


@dataclass(frozen=True, slots=True, eq=False)
class _Asked:
    """Whose samples are asked, and whether its adapter answers them (else the plain backbone does)."""

    name: str
    adapted: bool
    metric: CapabilityMetric


def _names(order: ExportOrder, manifest: Manifest) -> list[str]:
    names = [manifest.resolve(name) for name in order.capabilities]
    if len(names) > 1 and not FORMS[order.to].several:
        raise UsageError(f"--to {order.to} holds one capability", "give one --capability, or none for the backbone")
    if not names and FORMS[order.to].several:
        names = [name for name, facts in manifest.capabilities.items() if not facts.isolated]
    if closed := [name for name in names if manifest.capabilities[name].isolated and not order.allow_isolated]:
        raise UsageError(f'"{closed[0]}" is isolated', "export it with --enable-uncensored, if that is meant")
    return list(dict.fromkeys(names))


def _student(bundle: Bundle, names: list[str]) -> Student:
    """With these adapters, and without the router, which no other form has."""
    model = bundle.model()
    for name in names:
        bundle.add_adapter(model, name)
    return Student(model, bundle.tokenizer(), bundle.arch)


def _texts(student: Student, metrics: Mapping[str, CapabilityMetric]) -> list[str]:
    """Prompts as they are asked, of the split that may be looked at."""
    request = SampleRequest(Split.PROFILE, RULE_TEXTS)
    samples = [sample for metric in metrics.values() for sample in draw(metric, request)]
    return [prompt_text(student.tokenizer, sample.prompt, "the student") for sample in samples]


def _lines(order: ExportOrder, bundle: Bundle, student: Student, asked: _Asked, made: Made) -> list[Line]:
    facts = bundle.manifest.capabilities[asked.name]
    request = _request(order, bundle, asked.name, facts)
    own = StudentAnswerer(student.model, student.tokenizer, asked.name if asked.adapted else None, allow_isolated=True)
    found, ours = evaluate("the bundle", own, asked.metric, request)
    if order.samples is None and found.n != facts.result.n:
        raise DataError(f"{asked.name} has {found.n} samples, and the gate asked {facts.result.n}", "give --samples")
    with ExitStack() as stack:
        answerers: Mapping[str, Answerer] = made.answerers(asked.name, stack)
        return [_line(asked, facts, request, ours, (way, answerer)) for way, answerer in answerers.items()]


def _request(order: ExportOrder, bundle: Bundle, name: str, facts: CapabilityFacts) -> SampleRequest:
    """The gate's own samples."""
    seed = bundle.report().get("seed")
    if not isinstance(seed, int):
        raise DataError(f"{bundle.path / REPORT}: the key 'seed' is missing", "the bundle has no report of the gate")
    return gate_request(_contract(name, facts), order.samples or facts.result.n, seed)


def _line(
    asked: _Asked, facts: CapabilityFacts, request: SampleRequest, ours: Answers, way: tuple[str, Answerer]
) -> Line:
    found, theirs = evaluate("the export", way[1], asked.metric, request)
    bundle = asked.metric.aggregate(ours.samples, ours.scores)
    same = sum(a == b for a, b in zip(ours.outputs, theirs.outputs, strict=True)) / found.n
    teacher = facts.result.teacher_score if asked.adapted else None
    in_contract, reason = None, ""
    if teacher is not None:
        judged = judge(_contract(asked.name, facts), teacher, found.score)
        in_contract, reason = judged.verdict == PASS, judged.reason
    elif same < 1 - OTHER_ANSWERS:
        reason = f"{1 - same:.1%} of its answers are not the bundle's"
    return Line(
        capability=asked.name if asked.adapted else f"backbone on {asked.name}",
        asked=way[0],
        metric=found.metric,
        direction=found.direction,
        data=found.data,
        seed=request.seed,
        n=found.n,
        gate_n=facts.result.n,
        score=found.score,
        ci95=found.ci95,
        bundle_score=bundle,
        ratio_to_bundle=found.score / bundle if bundle else None,
        teacher_score=teacher,
        ratio_to_teacher=found.score / teacher if teacher else None,
        same_answers=same,
        retain_fraction=facts.contract.retain_fraction if asked.adapted else None,
        minimum=facts.contract.minimum if asked.adapted else None,
        in_contract=in_contract,
        kept=not reason,
        reason=reason,
    )


def _contract(name: str, facts: CapabilityFacts) -> Contract:
    """As the bundle carries it. What only profiling and planning read of a contract is not in a bundle."""
    own = facts.contract
    return Contract(
        capability=name,
        benchmark=own.benchmark,
        metric=own.metric,
        direction=Direction(own.direction),
        retain_fraction=own.retain_fraction,
        minimum=own.minimum,
        tier=facts.tier,
        rank_cap=0,
        thresholds=Thresholds(float("nan"), float("nan")),
    )


def _report(order: ExportOrder, bundle: Bundle, wanted: Wanted, made: Made, lines: list[Line]) -> ExportReport:
    return ExportReport(
        bundle=bundle.manifest.name,
        bundle_sha256=sha256(read_manifest(order.bundle).to_bytes()).hexdigest(),
        to=order.to,
        dtype=order.dtype,
        capabilities=wanted.capabilities,
        blocks=made.size.blocks,
        bottlenecks=made.size.bottlenecks,
        parameters=made.size.parameters,
        tokenizer_rule=made.rule.name if made.rule else None,
        tokenizer_same=made.rule.same if made.rule else None,
        tried_with=made.tried_with,
        limits=made.limits,
        lines=tuple(lines),
    )
