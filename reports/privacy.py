"""Reports of data that must not be shared: without images of subjects, with names for the ids.

The names are keyed hashes of the ids. The key is random, made for one report and not stored,
because ids are few and follow a pattern: without a key, all possible ids could be hashed and
compared. A subject has the same name throughout a report, and another one in the next report.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import replace
from hashlib import blake2b
from typing import Any

from harmbench.contracts.dataset import NOTE_KINDS
from reports.results import Results

BYTES = 6
"""Length of a name: two of 100 000 subjects share one in about 1 of 50 000 reports."""
LEAST_BARE = 4
"""Least length of an id that is found in a sentence without its prefix or a word before it."""
WORDS = r"(?:\b[Pp]articipants?\b|\b[Ss]ubjects?\b|\b[Ii][Dd]s?\b|'|\")"


def keep_back(results: Results, *, images: bool = True, secret: bytes | None = None) -> Results:
    """Return the results as they may be shown.

    Parameters
    ----------
    results : Results
        A run, or several merged ones.
    images : bool
        Whether images of single subjects may be shown.
    secret : bytes, optional
        Key of the hashes that replace the participants' ids; without one the ids are shown.

    Returns
    -------
    Results
        The ids are replaced in the participants, in every table of scans, and in the reasons,
        notes and settings. Ages, sexes and sites stay.
    """
    if secret is None:
        return replace(results, images_allowed=images)
    ids = made_up_names(results.participants["participant_id"], secret)
    redact = redactor(ids)
    run = results.config["run"]
    private = {name: results.config.get(name, {}) for name in ("dataset", *NOTE_KINDS)}

    def anonymous(text: str) -> str:
        # Data that were set aside may belong to participants outside of the cohort, who are named
        # by their folders, or after the line of a table.
        text = re.sub(r"((?:line|row) \d+), [^:]*:", r"\1:", redact(text))
        return re.sub("sub-[0-9A-Za-z]+", "a participant", text)

    config = results.config | _strings(private, anonymous)
    config["run"] = run | {"data": _strings(run["data"], redact)}
    given = results.scores["reason"].astype(str)
    reasons = given.map({reason: redact(reason) for reason in given.unique()})
    return replace(
        results,
        images_allowed=images,
        ids=ids,
        config=config,
        scores=results.scores.assign(reason=reasons),
        absent={triple: redact(reason) for triple, reason in results.absent.items()},
    )


def made_up_names(ids: Collection[str], secret: bytes) -> dict[str, str]:
    """Return a name for every id that reveals neither the id nor its position in the list.

    Parameters
    ----------
    ids : collection of str
    secret : bytes
        16 to 64 random bytes.
    """
    digests = (
        (str(each), blake2b(str(each).encode(), key=secret, digest_size=BYTES)) for each in ids
    )
    pairs = {each: f"subject-{digest.hexdigest()}" for each, digest in digests}
    # Sorted by name, so that the mapping does not keep the order of the ids.
    return dict(sorted(pairs.items(), key=lambda pair: pair[1]))


def redactor(names: dict[str, str]) -> Callable[[str], str]:
    """Return a function that replaces the ids in a sentence by the names.

    An id is found as a whole word, with or without the prefix ``sub-``. A short one without a
    prefix, such as ``12``, is found only after a word such as participant or a quotation mark,
    because otherwise every number in a sentence would be a subject.
    """
    spelled: dict[str, str] = {}
    for each, name in names.items():
        bare = each.removeprefix("sub-")
        spelled |= dict.fromkeys((each, f"sub-{bare}", bare), name)
    # The longest first, so that no id is taken for the beginning of another.
    order = [re.escape(s) for s in sorted(spelled, key=len, reverse=True) if s]
    either = "|".join(order)
    sure = "|".join(s for s in order if len(s) >= LEAST_BARE)
    found = re.compile(
        rf"(?P<word>{WORDS}\s*)(?P<after>{either})(?![A-Za-z0-9])"
        rf"|(?<![A-Za-z0-9])(?P<alone>{sure or '(?!)'})(?![A-Za-z0-9])",
    )

    def replaced(match: re.Match[str]) -> str:
        return (match["word"] or "") + spelled[match["after"] or match["alone"]]

    return lambda text: found.sub(replaced, text)


def _strings(content: Any, change: Callable[[str], str]) -> Any:
    if isinstance(content, dict):
        return {key: _strings(value, change) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_strings(value, change) for value in content]
    return change(content) if isinstance(content, str) else content
