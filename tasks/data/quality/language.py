"""The language of a row: by its script, by its commonest words, else by py3langid (Lui and Baldwin 2012).

The model takes about 40 microseconds for 120 characters, the first two ways together about 10: they decide most rows
of the languages that they know. What is short or doubtful is UNKNOWN; such rows and
MIXED ones are never dropped.
"""

from __future__ import annotations

import re
from collections import Counter
from functools import cache

import numpy as np
from py3langid.langid import MODEL_FILE, LanguageIdentifier

from tasks.core.errors import ParamsError
from tasks.core.sections import Languages
from tasks.data.quality.finding import Finding
from tasks.data.rows import Row

UNKNOWN = "unknown"
MIXED = "mixed"

_SAMPLE = 120  # characters of a question or an answer that are looked at
_FEWEST = 20  # letters below which a text is too short to tell
_FEWEST_UNSPACED = 6  # the same for scripts whose characters are words or syllables
_SURE = 0.85  # probability, by the model's own estimate
_COMMON = 3  # different common words that decide, and that no other language has half of

_LETTERS = re.compile(r"[^\W\d_]+")
_SCRIPTS = (
    ("ja", re.compile("[\u3041-\u30ff]+")), ("ko", re.compile("[\uac00-\ud7af]+")), ("zh", re.compile("[\u3400-\u9fff]+")),
    ("th", re.compile("[\u0e01-\u0e5b]+")), ("el", re.compile("[\u0370-\u03ff\u1f00-\u1fff]+")),
    ("he", re.compile("[\u05d0-\u05ea]+")), ("ka", re.compile("[\u10a0-\u10ff]+")), ("hy", re.compile("[\u0530-\u058f]+")),
)  # fmt: skip
_UNSPACED = ("ja", "ko", "zh", "th")
_WORDS = {
    "en": (
        "the of and to is that for with you are this it be from or have what can they was would there which how not an as "
        "at by on in no its were been them he she his her any all just get want need please here more about than then "
        "into i my me we our your has had will if do does but so when where who some been also only out up"
    ),
    "de": (
        "der die das und ist nicht ein eine zu mit den von für auf dem sich auch wie ich sie es wird werden sind oder in "
        "an als bei aus nach im am des hat haben kann wenn nur noch so wir uns mir mich er man war was her will all"
    ),
    "fr": (
        "le les des et est une dans pour que qui pas vous nous avec sur sont cette plus par être il elle au aux ce la de "
        "un en du je me ne se on ou mon ma mes tu son sa ses mais tout fait"
    ),
    "es": (
        "el los las una del por para con como está más pero sus son ser este esta muy cuando también hay lo y tiene la "
        "de un en que no se me mi su al si ya le te todo"
    ),
    "it": (
        "il gli della di che è sono una per non con del alla questo anche come più nel dei delle essere ha la un in i le "
        "si mi ci al da lo no se ma ho tutto"
    ),
    "pt": (
        "os uma não para com por mais como são dos das você ao seu sua isso também ou em pelo pela um do da de que no na "
        "se as me eu foi ele ela meu minha tem"
    ),
    "nl": (
        "het een van en niet is dat op te zijn voor met aan ook maar naar wordt kan deze door bij als om uit de in ik je "
        "u we er had was heeft of die dit wat zo nog hoe mijn me he al"
    ),
}
_LANGUAGES = frozenset(
    re.findall(
        "..",
        "afamarasazbebgbnbrbscacscydadeeleneoeseteufafifrfygagdglguhahehihrhthuhyidigisitjajvkakkkmknkokukylalglnloltlv"
        "mgmkmlmnmrmsmynenlnoomorpaplpsptqurorusasiskslsosqsrsvswtatethtltrugukuruzvixhyozhzu",
    )
)


def examine(row: Row, params: Languages) -> list[Finding]:
    """A finding where the row is surely in a language that is not allowed. An unknown code is a ParamsError."""
    if params.action == "ignore":
        return []
    language = of_row(row)
    if language in (UNKNOWN, MIXED) or language in _allowed(params.allowed):
        return []
    return [Finding("languages", params.action, f"language: {language}")]


@cache
def _allowed(codes: tuple[str, ...]) -> frozenset[str]:
    unknown = sorted(set(codes) - _LANGUAGES)
    if unknown or not codes:
        found = ", ".join(unknown) or "none"
        raise ParamsError(
            f"prepare.quality.languages.allowed: expected some of {', '.join(sorted(_LANGUAGES))}; found {found}"
        )
    return frozenset(codes)


def of_row(row: Row) -> str:
    """The language of the last question and the last answer, JSON aside; MIXED where they differ, as translations do."""
    spoken = [message.text.strip() for message in row.messages if message.role in ("user", "assistant")]
    found = {of(text[:_SAMPLE]) for text in spoken[-2:] if text[:1] not in ("{", "[")} - {UNKNOWN}
    return MIXED if len(found) > 1 else next(iter(found), UNKNOWN)


def of(text: str) -> str:
    """ISO 639-1 code of the language of the text, or UNKNOWN, or MIXED."""
    text = text[:_SAMPLE]
    words = _LETTERS.findall(text.casefold())
    letters = sum(map(len, words))
    if not text.isascii() and (by_script := _by_script(text, letters)):
        return by_script
    if letters < _FEWEST:
        return UNKNOWN
    return _by_common_words(words) or _by_model(text)


def _by_script(text: str, letters: int) -> str:
    """The language that alone uses the text's script, MIXED where scripts are mixed, nothing where there is none.

    Han with a little kana is Japanese.
    """
    counts = {language: sum(map(len, script.findall(text))) for language, script in _SCRIPTS}
    if counts["ja"] * 10 >= counts["zh"]:
        counts["ja"] += counts.pop("zh")
    language, count = max(counts.items(), key=lambda pair: pair[1])
    fewest = _FEWEST_UNSPACED if language in _UNSPACED else _FEWEST
    if count < fewest:
        return ""
    return language if count * 2 > letters else MIXED


def _by_common_words(words: list[str]) -> str:
    counts = Counter(language for word in set(words) for language in _common().get(word, ()))
    (best, most), (_, next_most) = (*counts.most_common(2), ("", 0), ("", 0))[:2]
    return best if most >= _COMMON and next_most * 2 <= most else ""


@cache
def _common() -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for language, words in _WORDS.items():
        for word in words.split():
            found[word] = (*found.get(word, ()), language)
    return found


def _by_model(text: str) -> str:
    language, sureness = _model().classify(text)
    return str(language) if sureness >= _SURE and language in _LANGUAGES else UNKNOWN


@cache
def _model() -> LanguageIdentifier:
    """Loaded at the first doubtful row of a process: 0.5 s and 100 MB."""
    model = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    model.set_languages([*_LANGUAGES, "zxx"])  # zxx: no language, as code or numbers
    model.nb_ptc = np.ascontiguousarray(model.nb_ptc)  # chosen columns lie across memory: twice the time
    return model
