"""Faults in texts are found, and ordinary texts have none."""

from __future__ import annotations

import pytest

from adapters.training.check.languages import language_of
from adapters.training.check.private_data import personal_data_in, secrets_in
from adapters.training.check.text_faults import broken_json, looped, misread, text_faults
from adapters.training.data.chat_template import Conversation

FABLE = (
    "The fox went to the river because it was thirsty, and there it met a heron that was fishing. They talked for "
    "a while about the weather, the fish and the long winter, and then each of them went home by another way."
)


@pytest.mark.parametrize(
    ("text", "passage"),
    [
        (FABLE, None),
        (FABLE + " I am very sorry." * 12, "I am very sorry."),
        ("no " * 40, "no"),
        ("one two three. " * 4 + "end", None),  # short repetitions are style
        ("| --- " * 30, None),  # a table's ruler
        ("ha" * 40, "ha"),
        ("-" * 80, None),
        (" ".join(str(n) for n in range(200)), None),
    ],
)
def test_loops(text: str, passage: str | None) -> None:
    found = looped(text)
    assert (found is None) == (passage is None)
    if passage:
        assert found and set(found.split()) == set(passage.split())


@pytest.mark.parametrize("text", ["cafÃ©", "itâ€™s", "25 Â°C", "ðŸ˜€", "a \ufffd b", "Ã¼ber"])
def test_wrong_decoding(text: str) -> None:
    assert misread(f"He said: {text}")


@pytest.mark.parametrize("text", ["café", "it’s", "25 °C", "😀", "SÃO PAULO", "â la carte", "Größe", "東京"])
def test_right_characters(text: str) -> None:
    assert misread(text) is None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"a": 1}', None),
        ('{"a": 1,}', "Illegal trailing comma"),
        ("{'a': 1}", "Expecting property name"),
        ('{"a": 1}}', "Extra data"),
        ("Here:\n```json\n{bad}\n```", "Expecting property name"),
        ('Here:\n```json\n{"a": []}\n```', None),
        ("{name} is a placeholder", None),
        ("[1] and [2]", None),
        ("[x](y) [z]", None),
    ],
)
def test_broken_json(text: str, says: str | None) -> None:
    found = broken_json(text)
    assert found is None if says is None else found and "at column" in found


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("Write to ann.lee@acme.io.", ["e-mail address"]),
        ("Write to ann@example.com.", []),
        ("Call +49 170 1234567.", ["phone number"]),
        ("Card 4111 1111 1111 1111", ["card number"]),
        ("Order 4111 1111 1111 1112", []),
        ("IBAN DE89 3704 0044 0532 0130 00", ["IBAN"]),
        ("SSN 536-90-4399", ["US social security number"]),
        ("Host 8.8.8.8", ["IP address"]),
        ("Host 192.168.0.1, version 1.2.3.4.5", []),
        ("In 2024 we sold 1200 units for 3,500.00 in 14 days.", []),
    ],
)
def test_personal_data(text: str, kinds: list[str]) -> None:
    assert personal_data_in(text) == kinds


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("sk-proj-" + "aB3dE5gH7jK9mN1pQ3sT5v", ["API key"]),
        ("AKIA" + "QWERTYUIOPASDFGH", ["AWS key"]),
        ("AKIAIOSFODNN7EXAMPLE", []),
        ("-----BEGIN RSA PRIVATE KEY-----", ["private key"]),
        ("ghp_" + "a1B2" * 9, ["GitHub token"]),
        ("postgresql://app:s3cretpw@db.acme.io/x", ["password in an address"]),
        ("postgresql://user:$PASSWORD@host/x", []),
        ("a risk-averse desk-bound person", []),
    ],
)
def test_secrets(text: str, kinds: list[str]) -> None:
    assert secrets_in(text) == kinds


@pytest.mark.parametrize(
    ("text", "language"),
    [
        (FABLE, "English"),
        ("Bitte geben Sie mir die Nummer der Bestellung, und ich werde sie für Sie prüfen.", "German"),
        ("Pouvez-vous me dire où est mon colis, s'il vous plaît ? Il est parti avec les autres.", "French"),
        ("Por favor, dígame dónde está el paquete que compré para los niños con la tarjeta.", "Spanish"),
        ("请告诉我我的包裹现在在哪里", "Chinese"),
        ("荷物はどこにありますか、教えてください", "Japanese"),
        ("Где находится моя посылка?", "Russian or another language in Cyrillic"),
        ("Yes.", None),
        ("for (int i = 0; i < n; i++) { total += values[i]; }", None),
    ],
)
def test_languages(text: str, language: str | None) -> None:
    assert language_of(text) == language


def test_the_faults_of_a_chat_have_their_places() -> None:
    def chat(question: str, answer: str, *more: dict[str, str]) -> Conversation:
        turns = ({"role": "user", "content": question}, {"role": "assistant", "content": answer}, *more)
        return Conversation(turns, (), 3)

    def rules(conversation: Conversation) -> list[tuple[str, str]]:
        return [(fault.rule, fault.place) for fault in text_faults(conversation)]

    assert rules(chat("What happened at the river, and who was there with the fox?", FABLE)) == []
    german = "Bitte geben Sie mir die Nummer der Bestellung, und ich werde sie für Sie prüfen."
    ((rule, place),) = rules(chat("What is the state of the order that you have for me?", german))
    assert (rule, place) == ("other_language", "Line 3, messages[1]: German after a question in English")
    assert rules(chat("Hi", "As an AI language model, I cannot."))[0][0] == "assistant_talk"
    assert rules(chat("Hi", "Yes.", {"role": "user", "content": "And?"})) == [("ends_with_user", "Line 3")]
    assert rules(chat(" ", "Yes.")) == [("empty_message", "Line 3, messages[0]")]
    ((rule, place),) = rules(chat("My mail is ann.lee@acme.io", "Fine."))
    assert rule == "personal_data" and "ann.lee" not in place, "the value itself is never told"
