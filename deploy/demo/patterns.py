"""Sentences with what prose has little of: numbers, dates, times, money, measures, letters, abbreviations, names, questions.

They are written as people write them, digits and all; `sentences.spoken` has the normaliser say them. The language of the
templates is that of grammar.py; a slot is a phrase of words.py, or something drawn by a function here.
"""

from __future__ import annotations

import random
import re
import string
from collections.abc import Callable, Iterator

from words import BASE_SLOTS

_MONTHS = "January February March April May June July August September October November December".split()
_DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
_NAMES = (
    "Adam Amanda Andrew Angela Anthony Barbara Benjamin Beth Brian Caroline Catherine Christine Claire Colin Deborah "
    "Dennis Donna Dorothy Edward Eleanor Elizabeth Eric Eva Felix Fiona Gary Gloria Hannah Harold Harry Isabel Ivan "
    "Jacob James Janet Jason Jean Jennifer Jeremy Joan Joseph Joshua Judith Karen Keith Kenneth Larry Leo Linda Lisa "
    "Louis Louise Lydia Margaret Mark Martha Matthew Max Melissa Monica Nancy Natalie Nathan Neil Nicholas Nora Norman "
    "Olivia Pamela Patricia Patrick Paul Paula Ralph Rebecca Richard Roger Rosa Ruth Samuel Sandra Scott Sean Sharon "
    "Stella Stephen Susan Teresa Timothy Tony Valerie Vera Vincent Virginia William Yvonne"
).split()
_STREETS = "Oak Maple Church Mill Park River Spring Hill Lake Bridge Garden Market King Queen Station Forest".split()
_SHORT = "USB PDF GPS TV DVD FBI NASA UN EU BBC CEO PC ATM DNA LED UFO VIP FAQ MRI HTML".split()
_LETTERS = string.ascii_uppercase


def _price(rng: random.Random) -> str:
    return rng.choice("$$$£€") + (
        f"{rng.randint(2, 199)}.{rng.choice((25, 50, 75, 95, 99, rng.randint(10, 98)))}"
        if rng.random() < 0.5
        else f"{rng.choice((rng.randint(2, 90), rng.randrange(100, 5000, 50), rng.randrange(1000, 90000, 500))):,}"
    )


def _date(rng: random.Random) -> str:
    month, day, year = rng.choice(_MONTHS), rng.randint(1, 28), rng.randint(1820, 2035)
    return rng.choice((f"{month} {day}", f"{month} {day}, {year}", f"the {_th(day)} of {month}", f"{month} {year}"))


def _th(number: int) -> str:
    return f"{number}{'th' if number % 100 in (11, 12, 13) else {1: 'st', 2: 'nd', 3: 'rd'}.get(number % 10, 'th')}"


def _clock(rng: random.Random) -> str:
    hour, minute = rng.randint(1, 12), rng.choice((0, 5, 10, 15, 20, 25, 30, 35, 40, 45, 50, 55, rng.randint(1, 59)))
    return rng.choice((f"{hour}:{minute:02}", f"{hour}:{minute:02} {rng.choice(('am', 'pm'))}", f"{hour} pm"))


def _number(rng: random.Random) -> str:
    return f"{rng.choice((rng.randint(2, 20), rng.randint(11, 99), rng.randint(100, 999), rng.randint(1000, 99999))):,}"


def _measure(*units: str) -> Callable[[random.Random], str]:
    def drawn(rng: random.Random) -> str:
        amounts = (f"{rng.randint(2, 90)}", f"{rng.randint(1, 40)}.{rng.randint(1, 9)}", f"{rng.randint(100, 900)}")
        return f"{rng.choice(amounts)} {rng.choice(units)}"

    return drawn


def _phone(rng: random.Random) -> str:
    return f"555-01{rng.randint(0, 99):02}"  # numbers that are nobody's


_DRAWN: dict[str, Callable[[random.Random], str]] = {
    "price": _price,
    "date": _date,
    "clock": _clock,
    "count": _number,
    "small": lambda rng: str(rng.randint(2, 30)),
    "year": lambda rng: str(rng.randint(1500, 2049)),
    "length": _measure("km", "cm", "mm", "ft", "m"),
    "weight": _measure("kg", "g", "lbs", "oz"),
    "speed": _measure("mph", "km/h"),
    "bytes": _measure("GB", "MB", "kB"),
    "percent": lambda rng: f"{rng.choice((rng.randint(1, 99), f'{rng.randint(1, 30)}.{rng.randint(1, 9)}'))}%",
    "ordinal": lambda rng: _th(rng.randint(1, 110)),
    "fraction": lambda rng: rng.choice(("1/2", "3/4", "2/3", "1/4", "5/8", "1 1/2", "2 3/4")),
    "degrees": lambda rng: f"{rng.choice((-1, 1, 1)) * rng.randint(1, 38)}°{rng.choice('CF')}",
    "phone": _phone,
    "letter": lambda rng: rng.choice(_LETTERS),
    "code": lambda rng: f"{rng.choice(_LETTERS)}{rng.randint(1, 99)}",
    "plate": lambda rng: f"{''.join(rng.sample(_LETTERS, 3))} {rng.randint(10, 999)}",
    "spelled": lambda rng: "-".join(rng.choice(_NAMES).upper()[:6]),
    "short": lambda rng: rng.choice(_SHORT),
    "name": lambda rng: rng.choice(_NAMES + BASE_SLOTS["person"]),
    "title": lambda rng: rng.choice(("Mr.", "Mrs.", "Dr.", "Prof.", "Ms.", "Capt.", "Sgt.")),
    "surname": lambda rng: rng.choice(
        ("Brown", "Green", "Hill", "Cooper", "Baker", "Young", "Fisher", "Parker", "Long")
    ),
    "street": lambda rng: f"{rng.randint(1, 990)} {rng.choice(_STREETS)} {rng.choice(('St.', 'Ave.', 'Rd.', 'Blvd.'))}",
    "day": lambda rng: rng.choice((*_DAYS, "Mon.", "Tues.", "Wed.", "Thurs.", "Fri.")),
    "month": lambda rng: rng.choice((*_MONTHS, "Jan.", "Feb.", "Aug.", "Sept.", "Oct.", "Nov.", "Dec.")),
}

TEMPLATES: dict[str, tuple[str, ...]] = {
    "numbers": (
        "[About|Nearly|More than|Exactly] {count} [people|visitors|tickets|books|letters] [were counted|came|arrived] [in {city}|at the {place}].",
        "The {place} has {count} [rooms|seats|windows|shelves] [and {small} doors|on {small} floors].",
        "Chapter {small} begins on page {count}.",
        "She finished {ordinal} [of {count}|in the race|out of {count} runners].",
        "Take the {ordinal} [exit|street|door] [on the left|on the right|after the {place}].",
        "{percent} of the [voters|students|guests|workers] [agreed|said no|did not answer|were late].",
        "Prices [rose|fell] by {percent} [in {year}|since {month}|last year].",
        "The population grew from {count} to {count2} in {small} years.",
        "Add {fraction} of a cup of [sugar|flour|milk|oil] and stir for {small} minutes.",
        "Only {fraction} of the [work|cake|road|money] is [done|left|gone].",
        "{small} times {small2} is [more|less] than {count}.",
        "My locker is number {count}, not {count2}.",
        "The score was {small} to {small2} [at half time|in the end|when it rained].",
    ),
    "dates": (
        "[The {place} opened|We moved here|My {relative} was born|The letter is dated] on {date}.",
        "The [war|strike|festival|storm] [began|ended] in {year}.",
        "[Is|Was] the [meeting|exam|party|concert] on {date}[| or {date2}]?",
        "Please [reply|pay|call|return it] before {date}.",
        "Between {year} and {year2} the [town|river|school|company] [changed|moved|grew] a great deal.",
        "We are closed from {date} to {date2}.",
        "In {month} the {vehicle} [runs|leaves] only on {day}.",
    ),
    "times": (
        "The {vehicle} [leaves|arrives] at {clock}[, not at {clock2}| from platform {small}|].",
        "[Wake me|Call me|Meet us|Pick me up] at {clock}[ on {day}| sharp|, please].",
        "[Was it|Is it already] {clock} when [you left|he called|the lights went out]?",
        "Lunch is from {clock} to {clock2}.",
        "It took us {small} hours and {small2} minutes to reach {city}.",
        "The alarm went off at {clock} and again at {clock2}.",
    ),
    "money": (
        "The {thing} [costs|is|was only] {price}[|, which is too much| with tax].",
        "[Can you lend me|I owe you|He found|They lost] {price}[?| on {day}.|.]",
        "[Rent|Breakfast|A ticket|Parking] is {price} a [day|week|month|person].",
        "The bill came to {price}, and she paid {price2}.",
        "A raise of {percent} makes {price} a year.",
    ),
    "measures": (
        "The [bridge|wall|rope|fence] is {length} long and {length2} [wide|high].",
        "It is {degrees} in {city} and {degrees2} in {city2}.",
        "[The parcel|My {animal}|This box] weighs {weight}.",
        "The [limit|wind|car] [is|was] {speed} [here|today|on this road].",
        "You need {length} of [wire|pipe|cloth|rope] and {weight} of [sand|paint|sugar|clay].",
        "The file is {bytes}, and the [disk|phone|drive] holds {bytes2}.",
    ),
    "letters": (
        "It is spelled {spelled}.",
        "[My name is|Her name is] {name}, that is {spelled}.",
        "The [plate|code|number] is {plate}.",
        "Gate {code} is [closed|full|over there]; go to {code2}.",
        "Is that {letter} as in {name}, or {letter2}?",
        "Choose [answer|option|row|plan] {letter}, {letter2} or {letter3}.",
        "Vitamin {letter} [is good for you|was found in {year}].",
        "Plug the [USB|power|short|long] cable into the [PC|TV|DVD player|LED lamp].",
        "The {short} [said|reported|announced] it on {day}.",
        "Do you have that as a {short}[| or on {short2}]?",
    ),
    "abbreviations": (
        "{title} {surname} lives at {street}.",
        "{title} {surname} [is|was] [ill|away|late|at the {place}] on {day}.",
        "Have you [met|called|paid] {title} {surname}[| yet| since {month}]?",
        "Send it to {street}, apt. {small}.",
        "Bring fruit, e.g. apples, pears, etc.",
        "See fig. {small} on p. {count}.",
        "It is approx. {length} from {street}.",
        "The match is {city} vs. {city2} on {day}.",
        "Ask for [room|no.|size] {small} at {street}.",
    ),
    "calls": (
        "[Call|Ring|Text] me at {phone}[| after {clock}| on {day}].",
        "The number is {phone}, extension {small}.",
        "Dial {small}, then {phone}.",
    ),
    "names": (
        "[Have you met|Did you call|Do you remember] {name}, {name2}[ or| and] {name3}?",
        "{name} [told|asked|wrote to|met] {name2} [in {city}|on {day}|at the {place}].",
        "[Hello|Good morning|Thank you|Excuse me], {name}[, is {name2} in|, it is {name2} speaking|, how are you].",
        "{name}'s {relative} [lives|works|stayed] in {city}.",
        "[This is|Say hello to|I am waiting for] {name} from {city}.",
    ),
    "questions": (
        "[Who|What|Which of you] [broke|took|found|sold] the {thing}?",
        "[Why|When|How] did {name} [leave|sell the {thing}|go to {city}|miss the {vehicle}]?",
        "[Where|When] [is|was] the [nearest|last|next] {vehicle} to {city}?",
        "[Aren't|Weren't] you {feeling} [about that|any more|yesterday]?",
        "[Could|Would|Will] you [please|] [close|open|hold|fix] the {thing}?",
        "[Whose|Which] {thing} is [that|cheaper|under the table]?",
        "How [many|few] [chairs|keys|cups|stamps] do we [need|have|want] for {count} guests?",
        "It's {weather}, isn't it?",
        "You [will|won't] [tell {name}|come on {day}|sell the {thing}], [will|won't] you?",
    ),
}

_CHOICE = re.compile(r"\[([^\[\]]*)\]")
_SLOT = re.compile(r"\{([a-z]+)(\d?)\}")


def _filled(template: str, rng: random.Random) -> str:
    while (choice := _CHOICE.search(template)) is not None:
        template = template[: choice.start()] + rng.choice(choice[1].split("|")) + template[choice.end() :]

    def drawn(match: re.Match[str]) -> str:
        return _DRAWN[match[1]](rng) if match[1] in _DRAWN else rng.choice(BASE_SLOTS[match[1]])

    text = " ".join(_SLOT.sub(drawn, template).split())
    text = text.replace("..", ".").replace(" ?", "?")
    return text[0].upper() + text[1:]


def sentences(rng: random.Random) -> Iterator[tuple[str, str]]:
    """Kind and written sentence, without end: the kinds in turn, a template of each drawn anew."""
    while True:
        for kind, templates in TEMPLATES.items():
            yield kind, _filled(rng.choice(templates), rng)
