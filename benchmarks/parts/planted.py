"""What the data gates should find: made from real texts by a seeded hand, so that the truth is known."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import phonenumbers
from numpy.typing import NDArray
from scipy.sparse import csr_array
from stdnum import iban, luhn

SENTENCES = {
    "de": [
        "Der Mieter muss dem Vermieter zwei Monate vor dem Auszug Bescheid geben.",
        "Gieße die Tomaten am Abend, wenn die Sonne nicht mehr auf die Blätter brennt.",
        "Wie finde ich heraus, welches der beiden Programme mehr Speicher verbraucht?",
        "Sie hatte das Meer noch nie gesehen und konnte nun den Blick nicht abwenden.",
    ],
    "es": [
        "El inquilino debe avisar al propietario dos meses antes de dejar el piso.",
        "Riega los tomates por la tarde, cuando el sol ya no quema las hojas.",
        "¿Cómo puedo saber cuál de los dos programas gasta más memoria en mi ordenador?",
        "Nunca había visto el mar y ahora no podía dejar de mirarlo.",
    ],
    "fr": [
        "Le locataire doit prévenir le propriétaire deux mois avant de quitter l'appartement.",
        "Arrosez les tomates le soir, quand le soleil ne brûle plus les feuilles.",
        "Comment savoir lequel des deux programmes utilise le plus de mémoire ?",
        "Elle n'avait jamais vu la mer et ne pouvait plus en détacher les yeux.",
    ],
    "it": [
        "L'inquilino deve avvisare il proprietario due mesi prima di lasciare la casa.",
        "Annaffia i pomodori la sera, quando il sole non brucia più le foglie.",
        "Come faccio a sapere quale dei due programmi usa più memoria sul mio computer?",
        "Non aveva mai visto il mare e adesso non riusciva a smettere di guardarlo.",
    ],
    "ja": [
        "借りている部屋を出るときは、二か月前までに大家さんに知らせなければなりません。必ず書面でお願いします。",
        "トマトには、日差しが葉を焼かなくなる夕方に、たっぷりと水をやってください。毎日でなくてもかまいません。",
        "二つのプログラムのうち、どちらがより多くのメモリを使っているかを調べるにはどうすればよいですか。",
        "彼女はそれまで一度も海を見たことがなかったので、いつまでも目を離すことができませんでした。",
    ],
    "pl": [
        "Najemca musi zawiadomić właściciela dwa miesiące przed opuszczeniem mieszkania.",
        "Podlewaj pomidory wieczorem, kiedy słońce nie pali już liści.",
        "Jak mogę sprawdzić, który z tych programów zużywa więcej pamięci?",
        "Nigdy wcześniej nie widziała morza i teraz nie mogła oderwać od niego wzroku.",
    ],
    "ru": [
        "Арендатор должен предупредить хозяина за два месяца до отъезда.",
        "Поливайте помидоры вечером, когда солнце уже не жжёт листья.",
        "Как узнать, какая из двух программ занимает больше памяти?",
        "Она никогда раньше не видела моря и теперь не могла оторвать от него глаз.",
    ],
    "tr": [
        "Kiracı, daireden ayrılmadan iki ay önce ev sahibine haber vermelidir.",
        "Domatesleri akşamları, güneş yaprakları yakmadığı zaman sulayın.",
        "Bu iki programdan hangisinin daha çok bellek kullandığını nasıl anlarım?",
        "Denizi daha önce hiç görmemişti ve şimdi gözlerini ondan alamıyordu.",
    ],
    "zh": [
        "租客在搬出公寓之前必须提前两个月书面通知房东，否则押金可能不会全部退还，除非双方另有书面约定。",
        "请在傍晚给番茄浇水，那时候太阳不会再灼伤叶子，而且水分也不会很快蒸发掉，植物能够更好地吸收。",
        "我怎样才能知道这两个程序当中哪一个在我的电脑上占用了更多的内存，并且应该先关闭哪一个程序呢？",
        "她以前从来没有见过大海，现在她怎么也看不够，一直站在岸边，直到太阳落山，天完全黑下来才离开。",
    ],
}
"""By language: four sentences each, written for this purpose."""

ENGLISH = [
    "The tenant shall give the landlord two months of notice before leaving the flat.",
    "Water the tomatoes in the evening, when the sun no longer burns on the leaves.",
    "How do I find out which of the two programs uses more memory on my machine?",
    "She had never seen the sea before, and now she could not stop looking at it.",
]


def one_word_changed(text: str, hand: random.Random) -> str:
    """Another word in the place of one."""
    words = text.split()
    words[hand.randrange(len(words))] = f"planted{hand.randrange(1000)}"
    return " ".join(words)


def case_and_punctuation_changed(text: str, hand: random.Random) -> str:
    """Upper case, and other punctuation."""
    return text.upper().replace(",", ";").replace(".", " !") + "..."


def sentence_appended(text: str, hand: random.Random) -> str:
    """One English sentence more."""
    return f"{text} {hand.choice(ENGLISH)}"


def two_words_lost(text: str, hand: random.Random) -> str:
    """Without two words in a row."""
    words = text.split()
    place = hand.randrange(len(words) - 1)
    return " ".join(words[:place] + words[place + 2 :])


REWRITINGS = (one_word_changed, case_and_punctuation_changed, sentence_appended, two_words_lost)


def inserted(text: str, addition: str, hand: random.Random) -> str:
    """The text with something between two of its words."""
    words = text.split(" ")
    place = hand.randrange(len(words) + 1)
    return " ".join([*words[:place], addition, *words[place:]])


ALPHABET = "abcdefghijkmnpqrstuvwxyzABCDEFGHJKLM2345678"
"""Letters and digits that nobody takes for each other."""


def _letters(hand: random.Random, number: int, alphabet: str = ALPHABET) -> str:
    return "".join(hand.choice(alphabet) for _ in range(number))


def _digits(hand: random.Random, number: int) -> str:
    return _letters(hand, number, "0123456789")


def _filled(form: str) -> Callable[[random.Random], str]:
    """Puts a digit in the place of every #."""
    return lambda hand: re.sub("#", lambda _: _digits(hand, 1), form)


def _card(hand: random.Random) -> str:
    number = hand.choice(["4", "51", "55"]).ljust(2, "7") + _digits(hand, 13)
    number += luhn.calc_check_digit(number)
    return hand.choice([number, " ".join(re.findall("....", number))])


def _iban(hand: random.Random) -> str:
    rest = _digits(hand, 18)
    number = f"DE{iban.calc_check_digits('DE00' + rest)}{rest}"
    return hand.choice([number, " ".join(re.findall(".{1,4}", number))])


def _telephone(hand: random.Random) -> str:
    """Valid numbers in five ways of writing."""
    while True:
        area, rest = hand.choice([212, 312, 415, 650, 713]), hand.randint(2_000_000, 9_999_999)
        number = phonenumbers.PhoneNumber(country_code=1, national_number=area * 10**7 + rest)
        if phonenumbers.is_valid_number(number):
            break
    a, b, c = str(area), str(rest)[:3], str(rest)[3:]
    london = f"20 7{_digits(hand, 3)} {_digits(hand, 4)}"
    return hand.choice(
        [f"({a}) {b}-{c}", f"{a}-{b}-{c}", f"+1 {a} {b} {c}", f"+44 {london}", f"0{london}"]
    )


PERSONAL: dict[str, Callable[[random.Random], str]] = {
    "e-mail": lambda hand: f"{_letters(hand, 7).lower()}.{_letters(hand, 5).lower()}@posteo.de",
    "telephone number": _telephone,
    "account number": _iban,
    "card number": _card,
    "social security number": _filled("5##-3#-1###"),
    "IP address": _filled("85.1##.2#.17#"),
    "AWS key": lambda hand: "AKIA" + _letters(hand, 16, "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"),
    "GitHub token": lambda hand: "ghp_" + _letters(hand, 36),
    "model provider key": lambda hand: "sk-proj-" + _letters(hand, 40) + "7",
    "password": lambda hand: f"password: {_letters(hand, 5)}7{_letters(hand, 6)}",
}
"""Makers of personal data by kind."""

HARMLESS: list[Callable[[random.Random], str]] = [
    _filled("order ##########"),
    _filled("version 2.#.1#.#"),
    _filled("20##-11-2# 12:30:45"),
    _filled("USD ##,###,###.00"),
    _filled("192.168.1##.2#"),
    lambda hand: f"commit {_letters(hand, 40, '0123456789abcdef')}",
    lambda hand: "password: your_password_here1",
    lambda hand: f"{_letters(hand, 6).lower()}@example.com",
    _filled("pages 1##-2##, section 12.#.4.1"),
    _filled("ISBN 978-3-16-######-#"),
]
"""Makers of what looks like personal data and is none."""

_MISREAD = ["fiancé", "naïve", "“quoted”", "it’s", "über", "£5 —"]

BROKEN: dict[str, Callable[[random.Random], str]] = {
    "control character": lambda hand: "bell" + hand.choice("\x00\x07\x1b\x7f\x85"),
    "replacement character": lambda hand: "caf\ufffd",
    "invalid character": lambda hand: hand.choice("\ue000\uf8ff\uffff\ud83d"),
    "invisible character": lambda hand: "zero\u200bwidth",
    "bidirectional control": lambda hand: "\u202egnp.exe\u202c",
    "mojibake": lambda hand: hand.choice(_MISREAD).encode().decode("cp1252", "ignore"),
}
"""Makers of broken words, by the kind that the gate should name."""


def grams(text: str, n: int) -> set[tuple[str, ...]]:
    """Word n-grams by another hand than the gates' own: a plain pattern, and no hashes."""
    words = re.findall(r"[^\W_]+", text.lower())
    if len(words) < n:
        return {tuple(words)} if words else set()
    return set(zip(*(words[start:] for start in range(n)), strict=False))


def held_out_runs(held_out: list[str], n: int) -> Callable[[str], bool]:
    """Says whether a text shares a run of words with held-out ones: the rule of the gate for leakage,
    in lists and counters."""

    def words_of(text: str) -> tuple[str, ...]:
        return tuple(re.findall(r"[^\W_]+", text.lower()))

    def phrases(words: tuple[str, ...]) -> list[tuple[str, ...]]:
        return [words[start : start + 5] for start in range(len(words) - 4)]

    number = Counter(phrase for text in held_out for phrase in set(phrases(words_of(text))))
    rare = max(2, min(10, len(held_out) / 5), len(held_out) / 1000)
    common = {phrase for phrase, times in number.items() if times > rare}

    def runs(text: str) -> set[tuple[str, ...]]:
        words = words_of(text)
        known = {
            place + step
            for place, phrase in enumerate(phrases(words))
            if phrase in common
            for step in range(5)
        }
        left = tuple(word for place, word in enumerate(words) if place not in known)
        if len(left) < 5:
            return {words} if len(words) >= 5 else set()
        return {left[start : start + n] for start in range(max(1, len(left) - n + 1))}

    every = set().union(*map(runs, held_out))
    return lambda text: not every.isdisjoint(runs(text))


def similar_pairs(texts: list[str], threshold: float, n: int = 3) -> dict[tuple[int, int], float]:
    """All pairs whose Jaccard similarity is the threshold or more, exactly, and how much it is."""
    rows = [grams(text, n) for text in texts]
    known: dict[tuple[str, ...], int] = {}
    columns = [known.setdefault(gram, len(known)) for row in rows for gram in sorted(row)]
    sizes = np.array([len(row) for row in rows])
    ends = np.append(0, np.cumsum(sizes))
    matrix = csr_array(
        (np.ones(len(columns), np.int32), np.array(columns), ends), (len(rows), len(known))
    )
    found: dict[tuple[int, int], float] = {}
    for begin, end in pairwise([*range(0, len(rows), 500), len(rows)]):
        shared = (matrix[begin:end] @ matrix.T).tocoo()
        left, right = shared.row + begin, shared.col
        ratio = shared.data / (sizes[left] + sizes[right] - shared.data)
        for i in np.flatnonzero((ratio >= threshold) & (left < right)):
            found[int(left[i]), int(right[i])] = float(ratio[i])
    return found


def in_pairs(pairs: dict[tuple[int, int], float], number: int) -> NDArray[np.bool_]:
    """Which of so many texts are in some pair."""
    mask = np.zeros(number, np.bool_)
    for left, right in pairs:
        mask[[left, right]] = True
    return mask
