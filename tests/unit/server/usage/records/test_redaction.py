"""What is replaced in records, and what is not."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.errors import BadValue
from server.usage.records.redaction import MAX_REPETITIONS, Redactor, check_patterns
from tests.example_counts import examples

redact = Redactor().text


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("Write to jo.o'neil+x@mail.example.co.uk, please.", "Write to [email], please."),
        ("<anna@b.de>", "<[email]>"),
        ("Call +49 30 1234567 or (030) 123 4567.", "Call [phone] or [phone]."),
        ("Call 0049-171-2345679", "Call [phone]"),
        ("030/1234567", "[phone]"),
        ("It is 555-123-4567, or (555) 123-4567!", "It is [phone], or [phone]!"),
        ("card 4111 1111 1111 1111 12/27", "card [card] 12/27"),
        ("4111-1111-1111-1111", "[card]"),
        ("pay 12 4111111111111111 7", "pay 12 [card] 7"),
        ("amex 378282246310005", "amex [card]"),
        ("DE89 3704 0044 0532 0130 00", "[iban]"),
        ("GB82WEST12345698765432.", "[iban]."),
        ("key sk-proj-abcdefghijklmnop1234", "key [secret]"),
        ("AKIAIOSFODNN7EXAMPLE", "[secret]"),
        ("Authorization: Bearer abcdefghij0123456789", "Authorization: Bearer [secret]"),
        ("password: hunter22!", "password: [secret]"),
        ('{"api_key": "0123abcd"}', '{"api_key": "[secret]"}'),
        ("postgres://u:pa55word@db/x", "postgres://u:[secret]@db/x"),
        ("lg-AbCdEfGhIjKlMnOpQrStUvWx", "[secret]"),
        ("-----BEGIN RSA PRIVATE KEY-----\nMII\n-----END RSA PRIVATE KEY-----\nrest", "[secret]\nrest"),
        ("-----BEGIN PRIVATE KEY-----\ncut off", "[secret]"),
    ],
)
def test_personal_data_and_secrets_are_replaced(text: str, redacted: str) -> None:
    assert redact(text) == redacted


@pytest.mark.parametrize(
    "text",
    [
        "The 23rd of 2026-11-29 at 18:48:47, 3.14159265358979.",
        "Order 4111 1111 1111 1112 has 12 parts.",  # not Luhn's
        "1111 1111 1111 1111",
        "tokens: many",  # a word with another meaning
        "a@b, 50% of 1,000,000 at 10.0.0.1",
        "AB12 ABCD 9944 7532 01",  # not the check sum
    ],
)
def test_other_text_stays(text: str) -> None:
    assert redact(text) == text


@settings(max_examples=examples(50))
@given(st.text(alphabet="0123456789 -x", max_size=12), st.text(alphabet="0123456789 -x", max_size=12))
def test_a_card_is_found_among_other_digits(before: str, after: str) -> None:
    assert "4000056655665556" not in redact(f"{before} 4000056655665556 {after}")


@settings(max_examples=examples(50))
@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists, max_leaves=8))
def test_json_stays_json_of_the_same_shape(value: object) -> None:
    arguments = json.dumps({"value": value, "to": "a@b.de"})
    redacted = json.loads(Redactor().arguments(arguments))
    assert redacted["to"] == "[email]" and type(redacted["value"]) in (type(value), str)


def test_numbers_and_names_of_fields_in_arguments_are_looked_at() -> None:
    arguments = '{"card": 4111111111111111, "a@b.de": [true, null, 7, "+49 30 1234567"]}'
    assert json.loads(Redactor().arguments(arguments)) == {
        "card": "[card]",
        "[email]": [True, None, 7, "[phone]"],
    }
    assert Redactor().arguments("no JSON, a@b.de") == "no JSON, [email]"


def test_a_tenants_own_patterns_see_the_text_as_it_is() -> None:
    own = Redactor((r"KD-\d{6}", r"(?i)\bmr\.? \p{Lu}\w+"))
    assert own.text("Mr Smith, KD-123456, a@b.de") == "[redacted], [redacted], [email]"
    assert Redactor((r"\w+@corp",)).text("jo@corp.example.com") == "[redacted].example.com"


def test_patterns_that_cannot_be_used_are_refused() -> None:
    check_patterns([r"KD-\d{6}", r"\p{L}+", r"(?:a{2,5}){10}"])
    for pattern, reason in {
        "(": "is no regular expression",
        "a*": "matches an empty text",
        "(?:a{1000}){1000}": f"above {MAX_REPETITIONS}",
        "(?:a{ 1,100}){100 , }": f"above {MAX_REPETITIONS}",
    }.items():
        with pytest.raises(BadValue, match=reason):
            check_patterns([pattern])
