"""What a study says: per arm what its students score, retain and cost; what the method gains; and whether it wins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nexus_core.study.arms import Arms
from nexus_core.study.compare import ALL, Draws, Resampled, mean_of, plain_mean

Record = Mapping[str, Any]
COSTS = ("anchor_error", "tokens_per_second", "memory_mb", "bytes", "steps", "seconds")
MEGABYTE = 1 << 20


@dataclass(frozen=True, slots=True, eq=False)
class Findings:
    """Everything that the units of a study have shown. `units` are their summaries by arm and seed; `teachers` the
    teachers' scores on the same samples by capability, where they are present; `draws` the resamples by capability."""

    arms: Arms
    units: Mapping[str, Mapping[int, Record]]
    teachers: Mapping[str, Record]
    draws: Mapping[str, Draws]
    seeds: int

    @property
    def whole(self) -> dict[str, dict[str, list[Record]]]:
        """By arm and capability what was scored, a list over seeds, of the arms whose units all are finished and well."""
        found = {}
        for arm, units in self.units.items():
            good = [unit for _, unit in sorted(units.items()) if unit["failed"] is None]
            if len(good) == self.seeds:
                found[arm] = {name: [unit["capabilities"][name] for unit in good] for name in self.draws}
        return found

    def means(self, arm: str) -> dict[str, Resampled]:
        """By capability, over samples and seeds."""
        scores = self.whole[arm]
        return {name: draws.mean([row["scores"] for row in scores[name]]) for name, draws in self.draws.items()}

    def gains(self, arm: str, against: str) -> dict[str, Resampled]:
        """By how much an arm is better, by capability and over all of them."""
        one, two = self.means(arm), self.means(against)
        found = {name: draws.gain(one[name], two[name]) for name, draws in self.draws.items()}
        return {**found, ALL: mean_of(found)}

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Every arm against every baseline; of two baselines, the first against the second."""
        bases = self.arms.baselines
        return [
            (arm, base)
            for arm in self.whole
            for i, base in enumerate(bases)
            if base in self.whole and arm not in bases[i:]
        ]


def document(findings: Findings) -> dict[str, Any]:
    """study.json's findings; scores of single answers stay in the units' own files."""
    comparisons = [
        {"arm": arm, "against": base, "capability": name, "gain": gain.interval.as_json()}
        for arm, base in findings.pairs
        for name, gain in findings.gains(arm, base).items()
    ]
    arms = {arm: _arm(findings, arm) for arm in findings.units}
    return {"arms": arms, "comparisons": comparisons, "notes": notes(findings), "verdict": verdict(findings)}


def _arm(findings: Findings, arm: str) -> dict[str, Any]:
    units = {str(seed): _unit(findings, unit) for seed, unit in sorted(findings.units[arm].items())}
    found: dict[str, Any] = {"title": findings.arms.arms[arm].title, "seeds": units}
    if arm in findings.whole:
        own = findings.means(arm)
        retained = {
            name: draws.retained(own[name], draws.mean([findings.teachers[name]["scores"]])).interval.as_json()
            for name, draws in findings.draws.items()
            if name in findings.teachers
        }
        found["score"] = {name: mean.interval.as_json() for name, mean in own.items()}
        found["retained"] = retained
        found |= _worst({n: r["value"] for n, r in retained.items()}, {n: m.value for n, m in own.items()})
        found |= {cost: plain_mean([unit[cost] for unit in units.values()]) for cost in COSTS}
    return found


def _unit(findings: Findings, unit: Record) -> dict[str, Any]:
    """One unit with means over its capabilities, without the scores of single answers."""
    rest = {name: value for name, value in unit.items() if name not in ("capabilities", "key")}
    if unit["failed"] is not None:
        return {**dict.fromkeys(COSTS), **rest}
    parts = {
        name: {key: value for key, value in part.items() if key != "scores"}
        for name, part in unit["capabilities"].items()
    }
    for name, part in parts.items():
        if name in findings.teachers:
            draws = findings.draws[name]
            own, teacher = (
                draws.mean([row["scores"]]) for row in (unit["capabilities"][name], findings.teachers[name])
            )
            part["retained"] = draws.retained(own, teacher).value
    retained = {name: part["retained"] for name, part in parts.items() if "retained" in part}
    worst = _worst(retained, {name: part["score"] for name, part in parts.items()})
    means = {key: plain_mean([part[key] for part in parts.values()]) for key in ("anchor_error", "tokens_per_second")}
    return {**rest, **worst, **means, "capabilities": parts}


def _worst(retained: Mapping[str, float], scores: Mapping[str, float]) -> dict[str, Any]:
    """By what is retained where all teachers were measured, else by the score itself."""
    by = retained if len(retained) == len(scores) else scores
    worst = min(by, key=lambda name: by[name])
    return {"worst": worst, "worst_value": by[worst]}


# --- for people -------------------------------------------------------------------------------------------------


def arm_rows(found: Mapping[str, Any], capabilities: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Head and rows: each arm's mean over seeds, then each seed. A share in brackets is what is retained."""
    head = ["arm", "seed", *capabilities, "worst", "anchor", "tokens/s", "peak MB", "student MB", "steps", "seconds"]
    rows = []
    for arm, of in found["arms"].items():
        if "score" in of:
            shares = {name: row["value"] for name, row in of["retained"].items()}
            scores = [_score(of["score"][name]["value"], shares.get(name)) for name in capabilities]
            rows.append([arm, "mean", *scores, *_costs(of)])
        for seed, unit in of["seeds"].items():
            if unit["failed"] is not None:
                rows.append([arm, seed, *["failed"] * len(capabilities), "-", *_costs(unit)[1:]])
                continue
            parts = unit["capabilities"]
            scores = [_score(parts[name]["score"], parts[name].get("retained")) for name in capabilities]
            rows.append([arm, seed, *scores, *_costs(unit)])
    return head, rows


def _score(score: float, retained: float | None) -> str:
    return f"{score:.3f}" if retained is None else f"{score:.3f} ({retained:.3f})"


def _costs(of: Mapping[str, Any]) -> list[str]:
    size = of.get("bytes")
    numbers = [
        (of.get("anchor_error"), ".3f"),
        (of.get("tokens_per_second"), ".0f"),
        (of.get("memory_mb"), ".0f"),
        (None if size is None else size / MEGABYTE, ".2f"),
        (of.get("steps"), ".0f"),
        (of.get("seconds"), ".0f"),
    ]
    return [str(of.get("worst", "-")), *("-" if value is None else format(value, form) for value, form in numbers)]


def gain_rows(found: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Head and rows of the comparisons."""
    rows = []
    for row in found["comparisons"]:
        gain = row["gain"]
        interval = f"{gain['low']:+.3f} to {gain['high']:+.3f}"
        rows.append([row["arm"], row["against"], row["capability"], f"{gain['value']:+.3f}", interval, sign(gain)])
    return ["arm", "less", "capability", "gain", "95 % interval", "so it is"], rows


def sign(gain: Mapping[str, float]) -> str:
    """In a word, what an interval allows to say."""
    if gain["low"] > 0:
        return "better"
    return "worse" if gain["high"] < 0 else "undecided"


def notes(findings: Findings) -> list[str]:
    """What the numbers of the table do not show by themselves."""
    found = []
    for arm, units in findings.units.items():
        found += [f"{arm}, seed {seed} failed: {unit['failed']}" for seed, unit in units.items() if unit["failed"]]
        lost = {seed: unit["lost"] for seed, unit in units.items() if unit["lost"]}
        if lost:
            told = ", ".join(f"{steps} (seed {seed})" for seed, steps in lost.items())
            found.append(f"{arm}: rollbacks undid steps, which were made again and are in its cost: {told}")
    if missing := [name for name in findings.draws if name not in findings.teachers]:
        found.append(f"nothing is said of what is retained of {', '.join(missing)}: the teacher is not on this machine")
    return found + _anchor_notes(findings)


def _anchor_notes(findings: Findings) -> list[str]:
    """How far the arms are from their teachers' coordinates, in units of the method's distance."""
    errors = {
        arm: plain_mean([row["anchor_error"] for rows in parts.values() for row in rows])
        for arm, parts in findings.whole.items()
    }
    own = errors.pop(findings.arms.method, None)
    if not own:
        return []
    told = [f"{arm} {error / own:.1f} x" for arm, error in errors.items() if error is not None]
    return [f"anchor error on held-out rows, in units of {findings.arms.method}'s: {', '.join(told)}"] if told else []


def verdict(findings: Findings) -> str:
    """The last line: whether the method wins over every baseline, and where it does not."""
    method, whole = findings.arms.method, findings.whole
    missing = [arm for arm in (method, *findings.arms.baselines) if arm not in whole]
    if missing:
        return f"no verdict: not all units of {', '.join(missing)} are there and well"
    wins: list[str] = []
    faults: list[str] = []
    for base in findings.arms.baselines:
        gains = {name: gain.interval for name, gain in findings.gains(method, base).items()}
        over = gains.pop(ALL)
        told = f"{over.value:+.3f} ({over.low:+.3f} to {over.high:+.3f}) over {base}"
        (wins if over.low > 0 else faults).append(told)
        behind = [f"{name} {gain.value:+.3f}" for name, gain in gains.items() if gain.value <= 0]
        if over.low > 0 and behind:
            wins[-1] += f", though not on {', '.join(behind)}"
    ranked = {
        arm: sum(gain.value for name, gain in findings.gains(arm, method).items() if name == ALL) for arm in whole
    }
    best = max(ranked, key=lambda arm: ranked[arm])
    if best != method and ranked[best] > 0:
        faults.append(f"{best} is better by {ranked[best]:.3f}")
    if faults:
        return f"{method} does not win: {'; '.join([*faults, *wins])}"
    return f"{method} wins: {'; '.join(wins)}"
