from __future__ import annotations

import random
import time
from itertools import pairwise

import pytest
from benchmarks.parts import planted

from doratune.data.gates.personal_data import find, mask

# Tokens are put together here, so that no scanner takes this file for a leak.
PEM = "-----BEGIN RSA " + "PRIVATE KEY-----\n" + "MIIEpAIBAAKCAQEA0Zx7Yw9k" * 3 + "\n"
JWT = "eyJ" + "hbGciOiJIUzI1NiJ9" + ".eyJ" + "zdWIiOiIxMjM0In0" + ".dBjftJeZ4CVPmB92K27u"


@pytest.mark.parametrize(
    ("text", "kind", "found"),
    [
        ("Write to jane.doe+x@mail.posteo.co.uk.", "e-mail", "jane.doe+x@mail.posteo.co.uk"),
        ("<a@b.de>", "e-mail", "a@b.de"),
        ("call +1 650-253-0000 now", "telephone number", "+1 650-253-0000"),
        ("+49 30 901820", "telephone number", "+49 30 901820"),
        ("+1 312 436 4227 3289218401", "telephone number", "+1 312 436 4227"),
        ("(650) 253-0000", "telephone number", "(650) 253-0000"),
        ("pages 297 650.253.0000", "telephone number", "650.253.0000"),
        ("1-800-275-1222", "telephone number", "1-800-275-1222"),
        ("London 020 7946 0958", "telephone number", "020 7946 0958"),
        ("Tel. 0171/3920175", "telephone number", "0171/3920175"),
        ("tel: 6502530000", "telephone number", "6502530000"),
        ("IBAN DE89 3704 0044 0532 0130 00 AND", "account number", "DE89 3704 0044 0532 0130 00"),
        ("DE89370400440532013000 Name", "account number", "DE89370400440532013000"),
        ("NL91ABNA0417164300.", "account number", "NL91ABNA0417164300"),
        ("MT84MALT011000012345MTLCAST001S", "account number", "MT84MALT011000012345MTLCAST001S"),
        ("4111 1111 1111 1111", "card number", "4111 1111 1111 1111"),
        ("5500-0000-0000-0004", "card number", "5500-0000-0000-0004"),
        ("3782 822463 10005", "card number", "3782 822463 10005"),
        ("ssn 536-90-4399", "social security number", "536-90-4399"),
        ("85.214.132.117:80", "IP address", "85.214.132.117"),
        ("at 2a00:1450:4001:81b::200e.", "IP address", "2a00:1450:4001:81b::200e"),
        ("AKIA" + "IOSFODNN7EXAMPLE", "AWS key", "AKIA" + "IOSFODNN7EXAMPLE"),
        ("ghp_" + "a1B2" * 9, "GitHub token", "ghp_" + "a1B2" * 9),
        ("github_pat_" + "A1b2" * 10, "GitHub token", "github_pat_" + "A1b2" * 10),
        ("glpat-" + "abcdefghij1234567890", "GitLab token", "glpat-" + "abcdefghij1234567890"),
        ("xoxb-" + "123456789012-abcdefghij", "Slack token", "xoxb-" + "123456789012-abcdefghij"),
        ("AIza" + "x1" * 17 + "x", "Google key", "AIza" + "x1" * 17 + "x"),
        ("sk-proj-" + "aB3" * 9, "model provider key", "sk-proj-" + "aB3" * 9),
        ("sk-ant-" + "api03-aB3cD4eF5-xyz", "model provider key", "sk-ant-" + "api03-aB3cD4eF5-xyz"),
        ("hf_" + "aB" * 17, "Hugging Face token", "hf_" + "aB" * 17),
        ("sk_live_" + "4eC39HqLyjWDarjt", "Stripe key", "sk_live_" + "4eC39HqLyjWDarjt"),
        ("npm_" + "a1" * 18, "package index token", "npm_" + "a1" * 18),
        (f"Bearer {JWT}", "JSON web token", JWT),
        (f"{PEM}-----END RSA PRIVATE KEY-----", "private key", f"{PEM}-----END RSA PRIVATE KEY-----"),
        (f"{PEM}and so on", "private key", PEM),
        ("password = 'Tr0ub4dor&3x'", "password", "Tr0ub4dor&3x"),
        ('{"api_key": "9f8a7c6b5e4d"}', "password", "9f8a7c6b5e4d"),
        ("the password is G7#kLm2pQ9", "password", "G7#kLm2pQ9"),
        ("export DB_PASSWORD=qW8zN3vR", "password", "qW8zN3vR"),
        ("postgres://admin:s3cr3tZq@db.internal/x", "password", "s3cr3tZq"),
    ],
)  # fmt: skip
def test_it_is_found_under_its_name(text: str, kind: str, found: str) -> None:
    (only,) = find(text)
    assert (only.kind, text[only.start : only.end].strip()) == (kind, found.strip())
    masked = mask(text)
    assert found not in masked
    assert mask(masked) == masked
    assert find(masked) == []


@pytest.mark.parametrize(
    "text",
    [
        "",
        "version 1.2.3.4, clause 12.3.4.1",
        "10.12.13.14 and 192.168.100.200 and 127.0.0.1",
        "2019-03-04 12:30:45",
        "12/31/2020, 31.12.2020",
        "$1,234,567.89 or 0.123456789012 or 3.14159265358979",
        "ISBN 978-3-16-148410-0",
        "order 1234567890, call 1234567890",
        "phone 555-0123",
        "1999-2000-2001 and pages 100-110 120-130",
        "4111111111111112 has a wrong digit",
        "DE89370400440532013001 has a wrong digit",
        "000-12-3456 and 666-12-3456",
        "john@example.com, root@localhost.localhost, foo@2x.png, git@github.com:x/y",
        "2001:db8::1, fe80::1, std::vector<int>, a::b, 12:30:45",
        "password = 'password', api_key='your_api_key1', token: example123",
        "token = tokens[0]; secret = config.pass2word.x9; key2 = make_key2()",
        "the secret is kept; the token is valid1; password: hunter",
        "sk-learn-is-a-python-library-name and risk-adjusted-returns-2020",
        "-----BEGIN " + "PRIVATE KEY----- opens a file",
        "-----BEGIN PUBLIC KEY-----\n" + "MIIEpAIBAAKCAQEA0Zx7Yw9k" * 3,
        "postgres://user:password@localhost/db",
    ],
)
def test_what_only_looks_like_it_is_left_alone(text: str) -> None:
    assert find(text) == []
    assert mask(text) == text


def test_finds_are_in_order_and_apart() -> None:
    text = (
        "a@b.de 4111111111111111 user:pa55w0rdX@posteo.de tel. 030 901820 IBAN NL91ABNA0417164300"
    )
    found = find(text)
    assert [f.kind for f in found] == [
        "e-mail", "card number", "e-mail", "telephone number", "account number",
    ]  # fmt: skip
    assert all(a.end <= b.start for a, b in pairwise(found))
    assert mask(text) == "[EMAIL] [CARD] user:[EMAIL] tel. [PHONE] IBAN [IBAN]"


def test_masking_twice_is_masking_once_in_any_mixture() -> None:
    hand = random.Random(0)
    makers = [*planted.PERSONAL.values(), *planted.HARMLESS]
    for _ in range(300):
        parts = [hand.choice(makers)(hand) for _ in range(6)]
        text = hand.choice([" ", ", ", "", "\n", "@", "-"]).join(parts)
        masked = mask(text)
        assert mask(masked) == masked
        assert find(masked) == []


def test_what_comes_to_light_by_masking_is_masked_too() -> None:
    # The first address runs into the second; alone, the second is none.
    assert find(mask("x@posteo.de@posteo.de")) == []


N = 100_000
ADVERSARIES = {
    "letters": "a" * N,
    "digits": "1" * N,
    "spaced digits": "1 " * (N // 2),
    "at signs": "a@" * (N // 2),
    "hosts": "a@" + "a." * (N // 2),
    "plus": "+1 2" * (N // 4),
    "parentheses": "(0" * (N // 2),
    "no IBAN": "AA00 " * (N // 5),
    "wrong IBAN": "DE89 3704 0044 0532 0130 01 " * (N // 28),
    "keys begin": ("-----BEGIN " + "PRIVATE KEY-----") * (N // 27),
    "a key begins": "-----BEGIN " + "PRIVATE KEY-----" + "a " * (N // 2),
    "names": "secret" * (N // 6),
    "assigned": "password = a1 " * (N // 14),
    "equals": "password" + "=" * N,
    "web tokens": "eyJ" * (N // 3),
    "web tokens with dots": ("eyJ" + "a" * 10 + ".") * (N // 14),
    "addresses": "a://a:" * (N // 6),
    "colons": ":" * N,
    "groups of IPv6": "2aaa:" * (N // 5),
    "calls": "call " * (N // 5),
    "called": "call 1234567890 " * (N // 16),
    "parts of IPv4": "1." * (N // 2),
    "hyphens": "-" * N,
    "telephone numbers": "650-253-0000 " * (N // 13),
    "wrong cards": "4111 1111 1111 1112 " * (N // 20),
    "prefixes": "sk-" * (N // 3),
    "zeros": "0" * N,
    "accents": "é1" * (N // 2),
}


@pytest.mark.parametrize("name", ADVERSARIES)
def test_no_text_takes_long(name: str) -> None:
    text = ADVERSARIES[name]
    started = time.process_time()
    find(text)
    # The slowest takes 0.1 s, and is linear; a pattern that backtracks takes minutes.
    assert time.process_time() - started < 1


def test_a_text_without_candidates_costs_microseconds() -> None:
    text = "The parties agree to the following terms: 12 months, 3 % of it, in 2019. " * 3
    assert find(text) == []
    started = time.process_time()
    for _ in range(2000):
        find(text)
    # 4 microseconds; a busy machine is given the aim of 10, four times over.
    assert (time.process_time() - started) / 2000 < 40e-6
