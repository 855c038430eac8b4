"""The language of a text: by its script, or for Latin letters by its most common words."""

from __future__ import annotations

from collections import Counter
from functools import lru_cache
from typing import Final

import regex

_SCRIPTS: Final = {
    "Chinese": regex.compile(r"\p{Script=Han}"),
    "Japanese": regex.compile(r"[\p{Script=Hiragana}\p{Script=Katakana}]"),
    "Korean": regex.compile(r"\p{Script=Hangul}"),
    "Russian or another language in Cyrillic": regex.compile(r"\p{Script=Cyrillic}"),
    "Arabic": regex.compile(r"\p{Script=Arabic}"),
    "Hebrew": regex.compile(r"\p{Script=Hebrew}"),
    "Greek": regex.compile(r"\p{Script=Greek}"),
    "Hindi or another language in Devanagari": regex.compile(r"\p{Script=Devanagari}"),
    "Thai": regex.compile(r"\p{Script=Thai}"),
}
_WORDS: Final = {
    "English": "the and you that for with this are your have not can from what will how would please which when",
    "German": "der die das und ist nicht ein eine mit auf für sie ich wir wie auch bitte werden oder kann haben",
    "French": "le les des est une dans pour vous que qui avec pas nous sur votre cette être plus sont merci ou",
    "Spanish": "el los las que una para con por está como pero más sus usted puede gracias es del muy qué",
    "Italian": "il gli che una per non con sono della come più questo anche può grazie di ho nel è alla",
    "Portuguese": "o os que uma para não com você como mais são seu pode obrigado em da do está foi também",
    "Dutch": "de het een van en niet dat met voor op zijn wordt naar ook kan heeft deze bij maar graag",
    "Polish": "nie jest się na do że jak dla czy proszę są tak można przez oraz ale od po jego która",
}  # fmt: skip
_LANGUAGES_OF_WORD: Final[dict[str, tuple[str, ...]]] = {
    word: tuple(name for name, words in _WORDS.items() if word in words.split())
    for words in _WORDS.values()
    for word in words.split()
}
_WORD = regex.compile(r"\p{L}+")
_LEAST_LETTERS, _LEAST_WORDS, _LEAST_HITS = 8, 8, 3
_LEAD = 2.0  # times as many hits as the second language
_READ_CHARACTERS = 600


@lru_cache(maxsize=4096)
def language_of(text: str) -> str | None:
    """The language of ``text``; None if it is too short, mixed, code or unknown."""
    text = text[:_READ_CHARACTERS]
    if "```" in text:
        return None
    if not text.isascii() and (name := _by_script(text)) is not None:
        return name
    words = _WORD.findall(text.lower())
    if len(words) < _LEAST_WORDS:
        return None
    hits = Counter(name for word in words for name in _LANGUAGES_OF_WORD.get(word, ()))
    ranked = hits.most_common(2)
    if not ranked or ranked[0][1] < _LEAST_HITS or ranked[0][1] < 0.1 * len(words):
        return None
    return ranked[0][0] if len(ranked) == 1 or ranked[0][1] >= _LEAD * ranked[1][1] else None


def _by_script(text: str) -> str | None:
    letters = sum(character.isalpha() for character in text)
    if letters < _LEAST_LETTERS:
        return None
    counts = {name: len(pattern.findall(text)) for name, pattern in _SCRIPTS.items()}
    if counts["Japanese"] >= 0.1 * letters:  # it is written with Chinese characters, too
        return "Japanese"
    name = max(counts, key=counts.__getitem__)
    return name if counts[name] >= 0.5 * letters else None
