"""Answers that begin by refusing, in English, German, French, Spanish and Chinese.

The phrases are those of assistants ("I'm sorry, but I can't", "As an AI language model, I don't have"), not regret by
itself: "I'm sorry to hear that" and "I'm sorry for the delay" are no refusals. A letter that the assistant writes for
somebody may begin so, too ("I'm sorry, but I can't come to work"): report before you drop.
"""

from __future__ import annotations

import re

_START = 240  # characters of an answer in which it refuses, or does not

_CANNOT = (
    r"(?:can ?not|can't|(?:am|'m) (?:unable|not (?:able|allowed|capable|programmed))|won't|(?:do not|don't) have"
    r"|could(?: not|n't))"
)
_ENGLISH = (
    rf"(?:i'm |i am |we're |we are )?(?:very |so |really )?sorry,? (?:but )?(?:as an ai\b|(?:i|we) ?{_CANNOT}|this request)",
    rf"(?:i apologi[sz]e|my apologies|apologies|unfortunately)[,.:]? (?:but )?(?:as an ai\b|i ?{_CANNOT})",
    rf"as an? (?:ai|artificial intelligence|(?:large )?language model)\b[^.!?\n]{{0,80}}?\bi ?{_CANNOT}",
    r"as an? (?:ai|artificial intelligence|large)[ -](?:powered )?language model",
    r"i (?:can ?not|can't|won't|will not|am unable to|'m unable to|am not able to) "
    r"(?:help|assist|provide|fulfil|comply|do that|answer|engage|create|support)",
)
_GERMAN = (
    r"(?:es )?tut mir (?:sehr )?leid,? (?:aber )?(?:ich|das|dabei|als|diese)\b[^.!?\n]{0,60}?\b(?:nicht|keinen?)\b",
    r"als (?:eine? )?(?:ki|ai|künstliche intelligenz|(?:großes )?sprachmodell)\b",
    r"(?:leider )?(?:kann|darf) ich (?:ihnen |dir |euch )?(?:dabei |das |hierbei |damit )?(?:leider )?nicht",
    r"ich kann (?:ihnen |dir |euch )?(?:dabei|damit|hierbei|bei dieser anfrage) (?:leider )?nicht",
)
_FRENCH = (
    r"(?:je suis )?(?:vraiment )?désolée?,? (?:mais )?(?:je|en tant|nous)\b[^.!?\n]{0,60}?\b(?:ne\b|n'|pas\b)",
    r"en tant (?:que |qu')(?:modèle de langage|ia\b|intelligence artificielle|assistante? (?:ia|virtuel))",
    r"je ne (?:peux|suis|saurais) (?:malheureusement )?(?:pas|aider)\b",
)
_SPANISH = (
    r"lo siento(?: mucho)?,? (?:pero )?(?:no puedo|no tengo|no soy|no me|como)\b",
    r"como (?:una? )?(?:modelo de lenguaje|ia\b|inteligencia artificial|asistente de ia)",
    r"(?:lamentablemente|desafortunadamente),? no puedo",
)
_CHINESE = (
    r"(?:非常|很|十分)?(?:对不起|對不起|抱歉|遗憾)[,。! ]*(?:但是?|不过)?[, ]*(?:我|作为|由于|这个|该)"
    r"[^。!?\n]{0,40}?(?:无法|不能|没有能力|不会|没办法|無法|拒绝)",
    r"(?:由于)?我?(?:作为|是)(?:一个|一款|一名)?(?:ai|人工智能|大型|自然)?(?:语言模型|人工智能(?:助手|模型|程序))"
    r"[^。!?\n]{0,60}?(?:无法|不能|没有|不具备|并不)",
    r"我(?:无法|不能)(?:提供|回答|帮助|协助|满足|完成)",
)
_PHRASES = (*_ENGLISH, *_GERMAN, *_FRENCH, *_SPANISH, *_CHINESE)
_REFUSAL = re.compile(r"\W*(?:" + "|".join(f"(?:{phrase})" for phrase in _PHRASES) + ")")
_PLAIN = str.maketrans({"’": "'", "，": ",", "！": "!", "？": "?"})


def refuses(answer: str) -> bool:
    """Whether the answer begins with a refusal's phrase."""
    start = answer.lstrip()[:_START].casefold().translate(_PLAIN)
    return _REFUSAL.match(" ".join(start.split())) is not None
