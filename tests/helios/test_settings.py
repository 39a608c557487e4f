"""Settings: whatever cannot be used is refused at once, by the name of its variable."""

from typing import Annotated, Any, get_args, get_origin, get_type_hints

import msgspec
import pytest

from helios.settings import CHOICES, SettingInvalid, Settings, settings_from

KINDS = get_type_hints(Settings, include_extras=True)
NUMBERS = [field for field, kind in KINDS.items() if kind is not str]


def bounds_of(field: str) -> tuple[type, Any]:
    number, bounds = get_args(KINDS[field])
    return number, bounds


def read(field: str, text: str) -> Any:
    return getattr(settings_from({f"HELIOS_{field.upper()}": text}), field)


def test_every_number_has_bounds_and_every_default_is_within_them() -> None:
    for field in NUMBERS:
        assert get_origin(KINDS[field]) is Annotated, f"{field} has no bounds"
        _, bounds = bounds_of(field)
        assert bounds.ge <= getattr(Settings(), field) <= bounds.le
    assert msgspec.convert(msgspec.to_builtins(Settings()), Settings) == Settings()


@pytest.mark.parametrize("field", NUMBERS)
def test_a_number_out_of_bounds_is_refused_by_its_variables_name(field: str) -> None:
    number, bounds = bounds_of(field)
    assert read(field, str(bounds.ge)) == bounds.ge
    assert read(field, str(bounds.le)) == bounds.le
    bad = [str(bounds.le * 2), str(bounds.ge - 1), "many", "nan", "inf", "-1", " "]
    for text in [*bad, *(["1.5"] if number is int else [])]:
        with pytest.raises(SettingInvalid, match=f"HELIOS_{field.upper()} is .* it takes a .*number from"):
            read(field, text)


@pytest.mark.parametrize("field", CHOICES)
def test_a_word_that_is_no_choice_is_refused_with_the_list(field: str) -> None:
    for word in CHOICES[field]:
        assert read(field, word.upper()) == word
    with pytest.raises(SettingInvalid, match=f"HELIOS_{field.upper()} is 'loud', but it takes .*{CHOICES[field][0]}"):
        read(field, "loud")


def test_what_would_make_nothing_run_or_nothing_be_signed_is_refused() -> None:
    for variable, text in (("HELIOS_JOBS_ALIVE", "0"), ("HELIOS_PRESIGNED_URL_SECONDS", "604801")):
        with pytest.raises(SettingInvalid, match=variable):
            settings_from({variable: text})


def test_an_empty_variable_counts_as_unset() -> None:
    assert settings_from({f"HELIOS_{field.upper()}": "" for field in NUMBERS}).jobs_alive == Settings().jobs_alive
