"""Text that was cut into words for the counting, put together again: `it 's late , "` becomes `it's late,"`.

Perplexities of sub-word models are given on the text so joined, by the rules that SEDD published and its successors
kept (Lou et al., arXiv 2310.16834). They are ordered replacements, each over the whole text; some are crude (a quotation
mark pairs with the next one, wherever it is), but a perplexity is comparable only if the text is the same.
"""

import re

__all__ = ["LM1B", "PTB", "SCIENTIFIC", "WIKITEXT", "joined"]

Rules = tuple[tuple[re.Pattern, str], ...]


def rules(*pairs: tuple[str, str]) -> Rules:
    return tuple((re.compile(pattern), replacement) for pattern, replacement in pairs)


def marks(them: str) -> list[tuple[str, str]]:
    """One after the other, since of two in a row the second is found only when the first has moved."""
    return [(rf" {re.escape(mark)} ", f"{mark} ") for mark in them]


def joined(text: str, by: Rules) -> str:
    for pattern, replacement in by:
        text = pattern.sub(replacement, text)
    return text


LM1B = rules(
    (r"(https?) : / / ", r"\1://"),
    (r" '(\w+)", r"'\1"),  # it 's
    (r" (\w+) \. ", r" \1. "),  # a full stop only after a word
    (r" (\w+) \.$", r" \1."),
    *marks("?"),
    (r" \?$", "?"),
    *marks("!"),
    (r" !$", "!"),
    *marks(",:;"),
    (r" / ", "/"),
    (r'" ([^"]+) "', r'"\1"'),
    (r"' ([^']+) '", r"'\1'"),
    (r"\( ([^()]+) \)", r"(\1)"),
    (r"\[ ([^\[\]]+) \]", r"[\1]"),
    (r"([$£]) ", r"\1"),
)

PTB = rules(
    (r" 's", "'s"),
    (r"s ' ", "s' "),
    (r" n't", "n't"),
    (r"\\/", "/"),
    (r"(?<= )N(?= )", "1"),  # numbers were made N
    (r"([$#]) 1", r"\g<1>1"),
    (r"<unk>", "?"),
)

WIKITEXT = rules(
    (r"s '", "s'"),
    (r" @([-,.])@ ", r"\1"),  # within numbers and compounds
    *marks(":;.!?,"),
    (r"\(\s*([^)]*?)\s*\)", r"(\1)"),
    (r"\[\s*([^\]]*?)\s*\]", r"[\1]"),
    (r"{\s*([^}]*?)\s*}", r"{\1}"),
    (r'"\s*([^"]*?)\s*"', r'"\1"'),
    (r"'\s*([^']*?)\s*'", r"'\1'"),
    (r"= = = =", "===="),
    (r"= = =", "==="),
    (r"= =", "=="),
    (r" ° ", "°"),
    (r" ?\n ?", "\n"),
    (r" N ", " 1 "),
    (r" 's", "'s"),
)

SCIENTIFIC = WIKITEXT + LM1B
