"""The families of generated problems. Each draws numbers that come out whole, and returns the question, the worked
steps and the answer; the numbers alone, not the words, decide to which split a problem belongs.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Problem:
    """A finished problem. `key` is its mathematical content: two wordings of one problem share it."""

    key: str
    question: str
    steps: tuple[str, ...]
    answer: int


PEOPLE = ("Abel", "Bea", "Cleo", "Dora", "Enzo", "Fay", "Gus", "Hal", "Ida", "Jude", "Kai", "Liv", "Max", "Nell", "Pia")
GOODS = ("coat", "lamp", "bicycle", "radio", "table", "watch", "camera", "guitar", "tent", "carpet", "printer", "sofa")


def expression(rng: random.Random) -> Problem:
    """Brackets and precedence: two shapes, in four wordings."""
    a, b, c, d = rng.randint(2, 60), rng.randint(2, 60), rng.randint(2, 9), rng.randint(1, 90)
    ask = rng.choice(("Compute {}.", "What is {}?", "Evaluate {}.", "Find the value of {}."))
    if rng.random() < 0.5:
        total = (a + b) * c
        d = min(d, total - 1)
        steps = (f"{a}+{b}={a + b}", f"{a + b}*{c}={total}", f"{total}-{d}={total - d}")
        return Problem(f"({a}+{b})*{c}-{d}", ask.format(f"({a} + {b}) * {c} - {d}"), steps, total - d)
    product = b * c
    steps = (f"{b}*{c}={product}", f"{a}+{product}={a + product}", f"{a + product}+{d}={a + product + d}")
    return Problem(f"{a}+{b}*{c}+{d}", ask.format(f"{a} + {b} * {c} + {d}"), steps, a + product + d)


def equation(rng: random.Random) -> Problem:
    """A linear equation in one unknown."""
    x, k, b = rng.randint(2, 60), rng.randint(2, 9), rng.randint(1, 99)
    name = rng.choice("xyznmt")
    product = k * x
    if rng.random() < 0.5 and b < product:
        right = product - b
        text, steps = f"{k}{name} - {b} = {right}", (f"{right}+{b}={product}", f"{product}/{k}={x}")
    else:
        right = product + b
        text, steps = f"{k}{name} + {b} = {right}", (f"{right}-{b}={product}", f"{product}/{k}={x}")
    ask = rng.choice(("Solve for {n}: {e}.", "Find {n} if {e}.", "For which {n} is {e}?", "{e}. What is {n}?"))
    return Problem(text.replace(name, "x"), ask.format(n=name, e=text), steps, x)


def percent(rng: random.Random) -> Problem:
    """A price that rises or falls by some percent, or a part of a group."""
    share = rng.choice((5, 10, 15, 20, 25, 30, 40, 50, 60, 75))
    whole = rng.randint(1, 24) * 20
    part = whole * share // 100
    steps: tuple[str, ...] = (f"{whole}*{share}={whole * share}", f"{whole * share}/100={part}")
    thing, who = rng.choice(GOODS), rng.choice(PEOPLE)
    kind = rng.choice(("part", "off", "up"))
    if kind == "part":
        ask = ("{s} percent of the {w} pupils walk to school. How many pupils walk?", "What is {s}% of {w}?")
        return Problem(f"{share}%{whole}", rng.choice(ask).format(s=share, w=whole), steps, part)
    if kind == "off":
        ask = (
            "A {t} costs {w} dollars. {p} gets {s} percent off. What does {p} pay?",
            "The price of a {t} falls from {w} dollars by {s}%. What is the new price?",
        )
        answer, last = whole - part, f"{whole}-{part}={whole - part}"
    else:
        ask = (
            "The rent was {w} dollars and rises by {s} percent. What is it now?",
            "{p} earns {w} dollars and gets a raise of {s}%. What does {p} earn then?",
        )
        answer, last = whole + part, f"{whole}+{part}={whole + part}"
    question = rng.choice(ask).format(t=thing, w=whole, s=share, p=who)
    return Problem(f"{kind}{share}%{whole}", question, (*steps, last), answer)


UNITS = (
    ("hours", "minutes", 60, 12),
    ("minutes", "seconds", 60, 12),
    ("weeks", "days", 7, 60),
    ("days", "hours", 24, 12),
    ("metres", "centimetres", 100, 9),
    ("feet", "inches", 12, 60),
    ("dozens", "eggs", 12, 60),
    ("years", "months", 12, 60),
)


def unit(rng: random.Random) -> Problem:
    """A quantity in two units, as one number of the smaller unit."""
    big, small, factor, most = rng.choice(UNITS)
    a, b = rng.randint(2, most), rng.randint(1, factor - 1)
    ask = rng.choice(
        (
            f"How many {small} are {a} {big} and {b} {small}?",
            f"Convert {a} {big} and {b} {small} to {small}.",
            f"Write {a} {big} {b} {small} in {small}.",
        )
    )
    steps = (f"{a}*{factor}={a * factor}", f"{a * factor}+{b}={a * factor + b}")
    return Problem(f"{a}{big}{b}{small}", ask, steps, a * factor + b)


def rate(rng: random.Random) -> Problem:
    """Speed, flow or pay: one of rate, time and amount is asked for, after a change."""
    speed, time, extra = rng.randint(3, 95), rng.randint(2, 9), rng.randint(5, 80)
    amount, who = speed * time, rng.choice(PEOPLE)
    if rng.random() < 0.5:
        ask = rng.choice(
            (
                "A train goes {s} km per hour for {t} hours and then another {e} km. How far does it go?",
                "{p} earns {s} dollars an hour for {t} hours, and {e} dollars of tips. What is that in all?",
                "A tap gives {s} litres a minute for {t} minutes into a tank that held {e}. What does it hold?",
            )
        )
        steps = (f"{speed}*{time}={amount}", f"{amount}+{extra}={amount + extra}")
        return Problem(f"{speed}*{time}+{extra}", ask.format(s=speed, t=time, e=extra, p=who), steps, amount + extra)
    total = amount + extra
    ask = rng.choice(
        (
            "{p} must read {n} pages and has read {e}. In {t} days the rest is read. How many pages a day?",
            "A bus has driven {e} of {n} km and needs {t} hours more. What is its speed in km per hour?",
            "{n} litres must be pumped; {e} are done and the rest takes {t} minutes. How many litres a minute?",
        )
    )
    steps = (f"{total}-{extra}={amount}", f"{amount}/{time}={speed}")
    return Problem(f"({total}-{extra})/{time}", ask.format(n=total, e=extra, t=time, p=who), steps, speed)


def ratio(rng: random.Random) -> Problem:
    """A whole that is divided in a ratio."""
    a, b, k = rng.randint(1, 6), rng.randint(1, 6), rng.randint(2, 60)
    whole = (a + b) * k
    p, q = rng.sample(PEOPLE, 2)
    ask = rng.choice(
        (
            f"{p} and {q} share {whole} dollars in the ratio {a}:{b}. How much does {p} get?",
            f"Sand and cement are mixed {a} to {b}. How many kg of sand are in {whole} kg?",
            f"The ratio of cats to dogs is {a}:{b}. There are {whole} animals. How many are cats?",
        )
    )
    return Problem(f"{a}:{b}of{whole}", ask, (f"{a}+{b}={a + b}", f"{whole}/{a + b}={k}", f"{k}*{a}={k * a}"), k * a)


def fraction(rng: random.Random) -> Problem:
    """A fraction of a whole, or what is left after it."""
    bottom = rng.randint(3, 9)
    top, part = rng.randint(2, bottom - 1), rng.randint(2, 60)
    whole, taken = bottom * part, top * part
    steps = (f"{whole}/{bottom}={part}", f"{part}*{top}={taken}")
    if rng.random() < 0.5:
        ask = rng.choice(("What is {a}/{b} of {w}?", "{p} spends {a}/{b} of {w} dollars. How many dollars is that?"))
        return Problem(
            f"{top}/{bottom}of{whole}", ask.format(a=top, b=bottom, w=whole, p=rng.choice(PEOPLE)), steps, taken
        )
    ask = rng.choice(
        (
            "A tank holds {w} litres. {a}/{b} of it leaks out. How many litres remain?",
            "{a}/{b} of {w} seats are taken. How many seats are free?",
        )
    )
    last = f"{whole}-{taken}={whole - taken}"
    return Problem(
        f"without{top}/{bottom}of{whole}", ask.format(a=top, b=bottom, w=whole), (*steps, last), whole - taken
    )


def average(rng: random.Random) -> Problem:
    """The mean of three or four numbers."""
    count = rng.choice((3, 4))
    values = [rng.randint(2, 90) for _ in range(count - 1)]
    values.append(count * rng.randint(sum(values) // count + 1, sum(values) // count + 30) - sum(values))
    steps, total = [], values[0]
    for value in values[1:]:
        steps.append(f"{total}+{value}={total + value}")
        total += value
    listed = ", ".join(map(str, values[:-1])) + f" and {values[-1]}"
    ask = rng.choice(
        ("What is the average of {}?", "Find the mean of {}.", "The scores are {}. What is the mean score?")
    )
    return Problem(f"mean{values}", ask.format(listed), (*steps, f"{total}/{count}={total // count}"), total // count)


def rectangle(rng: random.Random) -> Problem:
    """Area or perimeter, perhaps with one side to be found first."""
    a, b = rng.randint(3, 60), rng.randint(2, 9)
    place = rng.choice(("garden", "room", "field", "poster", "court", "roof"))
    if rng.random() < 0.5:
        ask = f"A {place} is {a} m long and {b} m wide. What is its perimeter in metres?"
        return Problem(f"around{a}x{b}", ask, (f"{a}+{b}={a + b}", f"{a + b}*2={2 * (a + b)}"), 2 * (a + b))
    less = rng.randint(1, a - 2)
    steps = (f"{a}-{less}={a - less}", f"{a - less}*{b}={(a - less) * b}")
    ask = f"A {place} {b} m wide was {a} m long, but {less} m of the length was cut off. What is its area in square metres?"
    return Problem(f"({a}-{less})x{b}", ask, steps, (a - less) * b)


def sequence(rng: random.Random) -> Problem:
    """The term after next of an arithmetic sequence."""
    first, gap, count = rng.randint(1, 99), rng.randint(2, 30), rng.choice((3, 4))
    terms = [first + i * gap for i in range(count)]
    following = terms[-1] + gap
    steps = (f"{terms[1]}-{first}={gap}", f"{terms[-1]}+{gap}={following}", f"{following}+{gap}={following + gap}")
    listed = ", ".join(map(str, terms))
    ask = rng.choice(
        (
            f"What are the next two numbers of {listed}? Give the second of them.",
            f"The sequence {listed} goes on in the same way. What is its term number {count + 2}?",
        )
    )
    return Problem(f"after{terms}", ask, steps, following + gap)


FAMILIES: Mapping[str, Callable[[random.Random], Problem]] = {
    f.__name__: f for f in (expression, equation, percent, unit, rate, ratio, fraction, average, rectangle, sequence)
}
