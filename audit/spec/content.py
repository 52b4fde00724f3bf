"""Find sexual content and minors in a spec: the first makes a concept sensitive, both together are refused."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator

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
    """Return `text` as plain lower-case words; compatibility forms, full width and joining signs are read as what they show."""
    shown = "".join(c for c in unicodedata.normalize("NFKC", text) if unicodedata.category(c) != "Cf")
    return re.sub(r"[\W_]+", " ", shown).casefold()


def is_sexual(text: str) -> bool:
    """Return whether `text` names sexual content, however it is spelled, joined or cased."""
    return _SEXUAL.search(_words(text)) is not None


def refuse_minors(document: object) -> None:
    """Raise ValueError, with both fields, when one document speaks of minors and of sexual content. No override exists.

    Keys and values count wherever they stand; a phrase is not read across two fields. When in doubt this refuses: where
    pictures come from is part of what they may show.
    """
    texts = list(_texts(document, ""))
    minor = next((field for field, text in texts if _MINOR.search(text)), None)
    sexual = next((field for field, text in texts if _SEXUAL.search(text)), None)
    if minor is not None and sexual is not None:
        raise ValueError(
            f"this spec pairs minors ({minor}) with sexual content ({sexual}); such audits are refused and there is no "
            "override"
        )


def pairing(document: object) -> Callable[[str], bool]:
    """Return a test for further texts: does one, alone or together with `document`, pair minors with sexual content?"""
    known = [text for _, text in _texts(document, "")]
    minors, sexual = any(map(_MINOR.search, known)), any(map(_SEXUAL.search, known))

    def pairs(text: str) -> bool:
        plain = _words(text)
        minor, explicit = bool(_MINOR.search(plain)), bool(_SEXUAL.search(plain))
        return (minor and (explicit or sexual)) or (explicit and minors)

    return pairs


def _texts(node: object, field: str) -> Iterator[tuple[str, str]]:
    """Yield (field, plain words) of every text in a document, its keys included."""
    if isinstance(node, str):
        yield field or "the text", _words(node)
    elif isinstance(node, dict):
        for key, item in node.items():
            inner = f"{field}.{key}".lstrip(".")
            yield from _texts(key, inner)
            yield from _texts(item, inner)
    elif isinstance(node, list | tuple):
        for number, item in enumerate(node):
            yield from _texts(item, f"{field}.{number}".lstrip("."))
