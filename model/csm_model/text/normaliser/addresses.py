"""Names that machines read: URLs, e-mail addresses, file names and paths, handles, hashtags, versions, IP addresses.

They are said sign by sign, so that who listens can write them down: `www.x.com` is w w w dot x dot com.
"""

from __future__ import annotations

import re

from csm_model.text.normaliser import codes, spelling
from csm_model.text.normaliser.characters import EN_DASH

_SIGNS = {
    ".": "dot", "/": "slash", "-": "dash", "_": "underscore", "?": "question mark", "=": "equals", "&": "and",
    "#": "hash", "%": "percent", "~": "tilde", ":": "colon", "@": "at", "+": "plus", "\\": "backslash", "*": "star",
    "!": "exclamation mark", "$": "dollar", ",": "comma", ";": "semicolon", "'": "apostrophe", "(": "open parenthesis",
    ")": "close parenthesis", "|": "pipe", "^": "caret",
}  # fmt: skip
_AS_WORDS = {"com": "com", "org": "org", "net": "net", "gov": "gov", "co": "co", "info": "info", "json": "jason",
             "wav": "wave", "zip": "zip", "doc": "doc", "gif": "gif", "java": "java", "log": "log", "readme": "readme",
             "yaml": "yammel", "toml": "tom-ul", "jpeg": "jay-peg", "bin": "bin", "tar": "tar", "bat": "bat",
             "lock": "lock", "ini": "ini", "conf": "conf", "dev": "dev", "app": "app", "edu": "E.D.U", "exe": "E.X.E",
             "a": "eh"}  # fmt: skip
_SPELLED = frozenset(
    "md txt py pdf docx xls xlsx ppt pptx csv tsv html htm js ts tsx jsx css png jpg svg bmp mp3 mp4 sh rs cpp hpp "
    "php rb xml yml cfg db sql exe dll iso apk dmg io uk us ai tv eu de fr ca au usr etc lib src tmp var www http "
    "https ftp id ip url api faq ui ux os pc cd vs cc qa rst ipynb edu ogg gz".split()
)
"""Parts of names that are spelled although they have vowels, or may look like words."""
_DOMAIN_ENDS = (
    "com|org|net|edu|gov|mil|int|info|biz|io|ai|app|dev|co|tv|me|us|uk|ca|au|nz|ie|eu|de|fr|es|it|nl|be|ch|at|se|no|dk|fi"
    "|pl|pt|gr|cz|ru|cn|jp|kr|in|br|mx|za|xyz|tech|cloud|online|site|store|news|blog|ly|gg|fm"
)
_EXTENSIONS = (
    "md|txt|pdf|docx?|xlsx?|pptx?|csv|tsv|json|ya?ml|toml|xml|html?|css|jsx?|tsx?|py|pyc|ipynb|rs|go|java|cpp|hpp|php|rb|sh"
    "|bat|exe|dll|zip|tar|gz|tgz|iso|dmg|apk|png|jpe?g|gif|svg|bmp|webp|mp3|mp4|wav|ogg|opus|flac|mov|avi|mkv|log|ini|cfg"
    "|conf|lock|db|sql|rst|tex|bin|dat|bak|tmp|env"
)
_URL = re.compile(
    r"(?<![\w@.])(?:(?:https?|ftp|file|ssh|wss?)://|mailto:|www\.(?=\w)|localhost:(?=\d))[^\s<>\"]+", re.I
)
_EMAIL = re.compile(r"(?<![\w.+-])[\w.+-]+@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+", re.A)
_BARE = re.compile(
    rf"(?<![\w@.-])(?:[A-Za-z0-9][A-Za-z0-9-]*\.)+(?:{_DOMAIN_ENDS})(?:\.uk|\.au|\.jp|\.nz|\.br)?(?![\w-]|\.\w)"
    r"(?::\d{1,5}(?!\d))?(?:/[^\s<>\"]*)?"
)
_PATH = re.compile(r"(?<![\w/.:])(?:~|\.{1,2})?(?:/[\w.@+-]*[\w@+-]){2,}/?(?!\w)|(?<![\w/.:])(?:~|\.{1,2})/[\w.@+-]*\w"
                   r"|(?<![\w/.:])/(?:usr|etc|bin|var|tmp|home|opt|dev|root|mnt|api|docs?|lib)\b/?", re.A)  # fmt: skip
_WINDOWS_PATH = re.compile(r"(?<!\w)[A-Za-z]:\\[^\s<>:\"|?*]*|\\\\[\w.-]+(?:\\[\w.$-]+)+", re.A)
_FILE = re.compile(rf"(?<![\w@/.-])(?:[\w-]+/)*\.?[\w-]+(?:\.[\w-]+)*\.(?i:{_EXTENSIONS})(?![\w-]|\.\w)", re.A)
_RELATIVE = re.compile(r"(?<![\w@/.-])[\w-]+(?:/[\w-]+){2,}/?(?![\w/])", re.A)
_DOT_FILE = re.compile(r"(?<![\w.])\.[a-z][\w-]*[a-z](?!\w)", re.A)
_HANDLE = re.compile(r"(?<![\w@.])@([A-Za-z_][\w]*(?:[.-]\w+)*)", re.A)
_HASHTAG = re.compile(r"(?<![\w&#])#([^\W\d]\w*|\d+[A-Za-z_]\w*)")
_SHARP = re.compile(r"\b([A-G])#(?![\w#])")
_COLOR = re.compile(r"(?<![\w&#])#(?=[A-Fa-f]*\d)([0-9A-Fa-f]{6})(?!\w)")
_PLUSES = re.compile(r"\b([A-Za-z])\+\+(?![\w+])")
_IP = re.compile(r"(?<![\w.])(\d{1,3})\.(\d{1,3})\.(\d{1,3})\.(\d{1,3})(?::(\d{1,5}))?(?:/(\d{1,2}))?(?![\w]|\.\d)")
_VERSION_WORD = re.compile(
    r"(?<![\w.])[vV](?:er\.?|ersion)? ?(\d+(?:\.\d+)*)(?:[-+.]?(alpha|beta|rc|a|b|dev|post)[.-]?(\d*))?(?![\w]|\.\d)"
)
_VERSION_RANGE = re.compile(rf"(?<![\w.])([vV]\d+(?:\.\d+)*) ?[-{EN_DASH}] ?(?=[vV]\d)")
_VERSION = re.compile(
    r"(?<![\w.,:/$€£-])(?!\d{3}\.\d{3}\.\d{4}(?![\d.]))(\d+(?:\.\d+){2,})"
    r"(?:[-.]?(alpha|beta|rc|dev|post)[.-]?(\d*))?(?![\w]|\.\d)"
)
"""Three numbers or more; what looks like a telephone number is one."""
_DOTTED = re.compile(r"(?<![\w.])[A-Za-z_][\w]*[a-z_](?:\.[a-z_]\w+)+(\(\))?(?!\w)", re.A)
_SNAKE = re.compile(r"(?<!\w)[A-Za-z]\w*(?:_+[A-Za-z0-9]+)+(?!\w)", re.A)
_JOINED = re.compile(r"(?<![\w&])([A-Z]{1,3})&([A-Z]{1,3})(s?)(?![\w&])")
_PARTS = re.compile(r"[A-Z]{2,}(?![a-z])|[A-Z]?[a-z]+|[A-Z]+|\d+|[^\W\d_]+|://|[\W_]")
_END = re.compile(r"[.,;:!?)\]}'\"*]+$")
_VOWEL = re.compile("[aeiouy]", re.I)


def say(text: str) -> str:
    """The text with such names in words."""
    if not any(sign in text for sign in "./@#\\_+&vV:"):
        return text
    text = _JOINED.sub(lambda match: f"{spelling.letters(match[1])} and {spelling.letters(match[2])}{match[3]}", text)
    text = _URL.sub(_address, text)
    text = _EMAIL.sub(_address, text)
    if "." in text:
        text = _IP.sub(_ip, text)
        text = _FILE.sub(_address, text)
        text = _BARE.sub(_address, text)
    if "/" in text or "~" in text:
        text = _PATH.sub(_address, text)
        text = _RELATIVE.sub(_relative, text)
    if "\\" in text:
        text = _WINDOWS_PATH.sub(_address, text)
    if "@" in text:
        text = _HANDLE.sub(lambda match: f"at {in_words(match[1])}", text)
    if "#" in text:
        text = _COLOR.sub(lambda match: f"hash {codes.by_signs(match[1])}", text)
        text = _SHARP.sub(r"\1 sharp", text)
        text = _HASHTAG.sub(lambda match: f"hashtag {in_words(match[1])}", text)
    text = _PLUSES.sub(lambda match: f"{spelling.letters(match[1])} plus plus", text)
    text = _VERSION_RANGE.sub(r"\1 to ", text)
    text = _VERSION_WORD.sub(lambda match: f"version {_version(match)}", text)
    text = _VERSION.sub(_version, text)
    if "." in text:
        text = _DOT_FILE.sub(_address, text)
        text = _DOTTED.sub(_address, text)
    if "_" in text:
        text = _SNAKE.sub(_address, text)
    return text


def in_words(name: str) -> str:
    """An address or name, sign by sign: words as words, initials and unsayable parts by their letters."""
    return " ".join(filter(None, map(_part, _PARTS.findall(name))))


def _part(part: str) -> str:
    lower = part.lower()
    if part == "://":
        return "colon slash slash"
    if part.isdigit():
        return spelling.short_number(part)
    if not part[0].isalpha():
        return _SIGNS.get(part, "")
    if lower in _AS_WORDS:
        return _AS_WORDS[lower]
    if len(part) == 1 or lower in _SPELLED or (part.isascii() and not _VOWEL.search(part)):
        return spelling.letters(part)
    return lower if len(part) > 3 and part.isupper() else part


def _address(match: re.Match[str]) -> str:
    name = match[0]
    end = _END.search(name)
    tail = ""
    if end:
        name, tail = name[: end.start()], end[0]
        if tail.startswith(")") and name.count("(") > name.count(")"):
            name, tail = f"{name})", tail[1:]
        if match.re is _DOTTED and tail.startswith(")"):
            name, tail = name.rstrip("("), tail[1:]
    return f"{in_words(name)}{tail}"


def _relative(match: re.Match[str]) -> str:
    """A path of three names or more; dates and what is counted are none."""
    parts = match[0].strip("/").split("/")
    return match[0] if all(part.replace("-", "").isdigit() for part in parts) else in_words(match[0])


def _ip(match: re.Match[str]) -> str:
    parts = [match[number] for number in range(1, 5)]
    if any(int(part) > 255 for part in parts):
        return match[0]
    said = " dot ".join(map(spelling.short_number, parts))
    if match[5]:
        said += f" colon {spelling.short_number(match[5])}"
    return f"{said} slash {spelling.cardinal(match[6])}" if match[6] else said


def _version(match: re.Match[str]) -> str:
    said = " point ".join(map(spelling.plain_number, match[1].split(".")))
    if match[2]:
        said += " " + {"rc": "R.C", "a": "alpha", "b": "beta"}.get(match[2], match[2])
        said += f" {spelling.cardinal(match[3])}" if match[3] else ""
    return said
