"""The exchanges of the corpora by topic: templates of a question and its answer, in the language of grammar.py.

The order of the exchanges is part of the corpora: a conversation is drawn from them by its seed.
"""

from __future__ import annotations

Exchange = tuple[str, str]

DEMO_TOPICS: dict[str, list[Exchange]] = {
    "hours": [
        (
            "[What time|When] does the {place} open on {day}?",
            "It opens at {time}[|, and it closes at {time2}|, but only in the {part}].",
        ),
        (
            "Is the {place} open on {day} {part}?",
            "[Yes, it is|I think so|No, I am afraid not]. [It closes at {time}|It is open until {time}|You can go on {day2} instead].",
        ),
        (
            "How far is the {place} from here?",
            "It is [about|only|more than] {number} minutes [by {vehicle}|on foot|from the {place2}].",
        ),
        (
            "Can I walk to the {place}?",
            "Yes, [turn left|turn right|go straight on] at the {place2}[| and walk for {number} minutes].",
        ),
        ("Where is the [nearest|new|old] {place}?", "It is [next to|behind|across from|near] the {place2}."),
    ],
    "travel": [
        (
            "When does the {vehicle} to {city} leave?",
            "The next {vehicle} leaves at {time}[| on {day}| from the {place}].",
        ),
        (
            "How much is a ticket to {city}?",
            "[It costs|A ticket costs|You pay] {number} dollars[| for {number2} people].",
        ),
        ("How long does it take to get to {city}?", "The {vehicle} takes [about|almost] {number} hours."),
        (
            "Did you have a good trip to {city}?",
            "[Yes|Oh yes], it was {weather} and we [saw the {place}|stayed for {number} days|visited my {relative}].",
        ),
        (
            "Shall we take the {vehicle} or the {vehicle2}?",
            "[Let us take|I would rather take|We should take] the {vehicle}, it is [faster|cheaper|more comfortable].",
        ),
    ],
    "food": [
        ("What would you like to eat?", "I would like {food}[|, please| and {drink}, please]."),
        ("Would you like {food} or {food2}?", "[I will have|Could I have|I would prefer] {food}, [please|thank you]."),
        (
            "What did {person} have for [lunch|dinner|breakfast]?",
            "[He had|She had|I think it was] {food} [with|and] {drink}.",
        ),
        (
            "Can I get you something to drink?",
            "[Yes, please, I would love|Just|I would like] {drink}[|, if you have it].",
        ),
        (
            "How do you like {food}?",
            "[It is|I find it] [delicious|a little too salty|very good|not bad at all] [with {drink}|in the {part}|after a long day].",
        ),
        (
            "Do we need anything from the market?",
            "[Yes, we need|Please buy] {food} and {number} [eggs|lemons|onions|apples].",
        ),
    ],
    "weather": [
        (
            "What will the weather be like on {day}?",
            "[It will be|They say it will be|I hope it will be] {weather} in the {part}[| and {weather2} in the evening].",
        ),
        ("Is it {weather} in {city} today?", "[No|Not really|Well], it is {weather2}[| and very quiet| today]."),
        ("Should I take my {thing}?", "[Yes|Of course|You had better], it will be {weather} [this|tomorrow] {part}."),
        ("How cold is it outside?", "It is {number} degrees and [quite|very|a bit] {weather}."),
    ],
    "people": [
        ("Have you seen {person} today?", "[Yes|I did], {person} was at the {place} at {time}."),
        ("Who is coming to dinner on {day}?", "{person} and {person2} are coming[| with {number} friends| at {time}]."),
        ("How is your {relative}?", "My {relative} is [a little|very|quite] {feeling}[| today| these days]."),
        ("Do you know {person}?", "[Yes|Of course], {person} [works at the {place}|lives in {city}|is my {relative}]."),
        ("When is your birthday, {person}?", "It is on {day}, and I will be {number} years old."),
        ("Why is {person} so {feeling}?", "[Because|Well,] the {animal} [ran away|slept all day|ate {food}]."),
    ],
    "home": [
        (
            "Where did you put my {thing}?",
            "[It is|I left it|You will find it] in the {room}[|, next to the {thing2}|, under the {thing2}].",
        ),
        ("Whose {thing} is this?", "[I think it belongs|It belongs] to {person}[|, or maybe to my {relative}]."),
        ("Can you help me with the {room}?", "[Sure|Of course|Yes], I can come on {day} at {time}."),
        ("How many rooms does the house have?", "It has {number} rooms[|, a {room} and a {room2}| and a garden]."),
        ("Did you find the {thing}?", "[Yes, it was|No, it was not] in the {room}[|, I am sorry to say]."),
    ],
    "plans": [
        ("What are you doing on {day} {part}?", "I [want|am going|hope] to {activity} with [{person}|my {relative}]."),
        (
            "Would you like to {activity} with me?",
            "[I would love to|That sounds great|Good idea]. [Let us meet at {time}|How about {day}|I am free on {day}].",
        ),
        ("Where shall we meet?", "[Let us meet|I will wait|Come and find me] at the {place} at {time}."),
        ("Are you free at {time}?", "[No|Sorry], I have to {activity}[|, but I am free at {time2}]."),
        (
            "Can we {activity} on {day}?",
            "[Only if it is {weather}|Yes, but not before {time}|Yes, {person} will come too].",
        ),
    ],
    "shopping": [
        ("How much is the {thing}?", "The {thing} costs {number} dollars[|, but the {thing2} is cheaper]."),
        (
            "Do you have this {thing} in [blue|red|green|a smaller size]?",
            "[Yes|I am sorry], we [have|only have] {number} of them left.",
        ),
        ("Can I pay at the {place}?", "[Yes|Of course], but [not after {time}|only on {day}|bring {number} dollars]."),
        ("I am looking for a {thing}.", "We have {number} of them, [over there|near the door|on the second floor]."),
    ],
    "animals": [
        ("Does your {animal} like {food}?", "[No|Yes], my {animal} [only eats|never eats|loves] {food2}."),
        ("How old is your {animal}?", "[It is|She is|He is] {number} years old, and always {feeling}."),
        ("Where does the {animal} sleep?", "It sleeps in the {room}[|, near the {thing}| when it is {weather}]."),
    ],
}

_MORE_TOPICS: dict[str, list[Exchange]] = {
    "work": [
        (
            "How was the meeting with {person}?",
            "It [went well|was too long|started at {time}], and {person2} was {feeling}.",
        ),
        (
            "Could you send me the [report|letter|list|plan] before {day}?",
            "[No problem|Certainly], you will have it by {time}[| on {day2}].",
        ),
        ("Who wrote this [report|letter|book|song]?", "I believe {person} wrote it in {city}, {number} years ago."),
        (
            "What is the number of the office?",
            "It is {number}, {number2}, {number3}, on the [first|third|fourth|top] floor.",
        ),
        ("My {relative} lost the keys to the {room}.", "[Ask|Call|Try] {person}, there is another one in the {room2}."),
    ],
    "stories": [
        (
            "Tell me what happened at the {place}.",
            "The {animal} jumped over the {thing}, and my {relative} [laughed|shouted|fell asleep|ran home].",
        ),
        ("What was the film about?", "It was about a {feeling} {animal} and a {relative} who lived in {city}."),
        (
            "Once I saw a {animal} in the {room}.",
            "[Really|Are you sure], a {animal}? I only saw a {thing} [and a {animal2}|by the door|on the stairs].",
        ),
        (
            "Did {person} really {activity} in {city}?",
            "Yes, [twice|every year|{number} times], with a {thing} and {food}.",
        ),
        ("Somebody spilled {drink} on the {thing}.", "[Oh no|Not again], {person} will be {feeling} about that."),
    ],
    "opinions": [
        (
            "Which do you prefer, {food} or {food2}?",
            "I [prefer|like|choose] {food2}, because {food} makes me {feeling}.",
        ),
        (
            "I think {city} is better than {city2}.",
            "[Maybe|I agree|I do not think so], but {city2} has a [bigger|nicer|cheaper] {place}.",
        ),
        (
            "Is it easy to {activity}?",
            "It is [harder|easier] than it looks, [my {relative} needed {number} weeks|ask {person}].",
        ),
        ("What makes you {feeling}?", "A {weather} {day} {part} with {drink} and {food}."),
    ],
    "health": [
        (
            "You look {feeling}. Are you all right?",
            "I [slept badly|worked until {time}|ate too much] and my [head|back|knee|throat] hurts.",
        ),
        ("When can I see the doctor?", "The doctor can see you on {day} at {time}, or on {day2} in the {part}."),
        (
            "How often should I take this?",
            "[Twice a day|Every {number} hours|Before breakfast], with {drink} and {food}.",
        ),
    ],
}
BASE_TOPICS = {**DEMO_TOPICS, **_MORE_TOPICS}
