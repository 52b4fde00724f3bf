"""What a spec may speak of: sexual content makes a concept sensitive, and together with minors it is refused."""

from __future__ import annotations

import re
import unicodedata

_MINOR = re.compile(
    r"\b(child(ren|like|hood)?s?|kid(s|die|dies|do)?|minors?|toddlers?|infants?|bab(y|ies)|newborns?|teen\w*|tweens?|"
    r"under ?aged?|pre ?teen\w*|pre ?school\w*|school ?(girl|boy|child|children|kid)s?|kindergart\w*|adolescen\w*|"
    r"(little|young|small) (girl|boy|lad|lass|one)s?|juveniles?|pubescent|pre ?pubescent|loli\w*|shota\w*|jailbait|"
    r"(\d|1[0-7]) ?(years?|yrs?|yo) ?(olds?)?|youths?)\b",
)
_SEXUAL = re.compile(
    r"\b(nud(e|es|ity|ist|ists|ism)|naked\w*|sex(y|es|ual\w*)?|porn\w*|erotic\w*|nsfw|topless|bottomless|(\w+ )?genital\w*|"
    r"explicit|undress\w*|unclothed|lingerie|fetish\w*|hentai|xxx|breasts?|buttocks|anus|nipples?|penis\w*|vagina\w*|vulva\w*|"
    r"orgasm\w*|masturbat\w*|intercourse|strip ?(tease|ping|per)\w*)\b",
)


def _words(text: str) -> str:
    """`text` as plain lower-case words: compatibility forms, full width or joined by signs, read as what they show."""
    shown = "".join(c for c in unicodedata.normalize("NFKC", text) if unicodedata.category(c) != "Cf")
    return re.sub(r"[\W_]+", " ", shown).casefold()


def is_sexual(text: str) -> bool:
    """Whether `text` names sexual content, however it is spelled, joined or cased."""
    return _SEXUAL.search(_words(text)) is not None


def refuse_minors(value: object) -> None:
    """Raise when one spec speaks of minors and of sexual content. There is no override."""
    text: list[str] = []

    def collect(node: object) -> None:
        if isinstance(node, str):
            text.append(_words(node))
        elif isinstance(node, dict):
            for key, item in node.items():
                collect(key)
                collect(item)
        elif isinstance(node, list | tuple):
            for item in node:
                collect(item)

    collect(value)
    joined = "\n".join(text)  # a line per field: a phrase is not read across two of them
    if _MINOR.search(joined) and _SEXUAL.search(joined):
        raise ValueError("this spec pairs minors with sexual content; such audits are refused and there is no override")
