"""The numbering plan: which ten digits are a number."""

import pytest

from agent.numbers.plan import (
    NPA_REASONS,
    NXX_REASONS,
    TOLL_FREE_NPAS,
    VALID_NPA,
    VALID_NXX,
    Service,
    is_fictitious,
    is_valid,
    judge,
)


def test_format_leaves_692_area_codes_and_792_exchange_codes() -> None:
    assert sum(VALID_NPA) == 692
    assert sum(VALID_NXX) == 792
    assert sum(VALID_NPA) * sum(VALID_NXX) * 10_000 == 5_480_640_000


@pytest.mark.parametrize(
    ("national", "reason"),
    [
        ("2110550123", "NPA 211 is an N11 code"),
        ("9115550123", "NPA 911 is an N11 code"),
        ("2915550123", "NPA 291 has the middle digit 9, kept for longer numbers"),
        ("3715550123", "NPA 371 is in the block 37X, which is set aside"),
        ("9605550123", "NPA 960 is in the block 96X, which is set aside"),
        ("1015550123", "NPA 101 starts with 1"),
        ("0015550123", "NPA 001 starts with 0"),
        ("2012115555", "NXX 211 is an N11 code"),
        ("2010550123", "NXX 055 starts with 0"),
        ("2011550123", "NXX 155 starts with 1"),
    ],
)
def test_number_that_the_plan_does_not_allow_is_invalid_and_says_why(national: str, reason: str) -> None:
    judgement = judge(national)
    assert (judgement.valid, judgement.reason, judgement.service) == (False, reason, Service.INVALID)
    assert not is_valid(national)
    assert not is_valid(int(national))


@pytest.mark.parametrize("national", ["2015550123", 2015550123, "2019881234", "3125550000"])
def test_number_of_the_plan_is_valid(national: int | str) -> None:
    assert is_valid(national)
    assert judge(national).valid


@pytest.mark.parametrize(
    "text",
    [
        "",
        "201555012",
        "20155501234",
        "+2015550123",
        "201555012 ",
        " 2015550123",
        "٢٠١٥٥٥٠١٢٣",
        "２０１５５５０１２３",
        "201555012²",
        "2015_50123",
        "2015550123\n",
    ],
)
def test_text_that_is_not_ten_ascii_digits_is_not_valid(text: str) -> None:
    assert not is_valid(text)
    assert judge(text).reason == "not ten digits"


@pytest.mark.parametrize("number", [-1, 10**10, 2**64, -2015550123])
def test_integer_outside_ten_digits_is_not_valid(number: int) -> None:
    assert not is_valid(number)
    assert judge(number).reason == "not ten digits"


def test_reason_is_given_exactly_where_a_code_is_not_allowed() -> None:
    for npa in range(1000):
        digits = f"{npa:03d}"
        allowed = digits[0] >= "2" and digits[1:] != "11" and digits[1] != "9" and digits[:2] not in {"37", "96"}
        assert (not NPA_REASONS[npa]) == allowed == bool(VALID_NPA[npa])
        assert (not NXX_REASONS[npa]) == (digits[0] >= "2" and digits[1:] != "11") == bool(VALID_NXX[npa])


def test_62_easily_recognisable_area_codes_are_usable() -> None:
    easy = [npa for npa in range(1000) if VALID_NPA[npa] and judge(f"{npa:03d}2340123").easily_recognisable]
    assert len(easy) == 62
    assert {800, 888, 500, 900} <= set(easy)


@pytest.mark.parametrize(
    ("national", "service", "area"),
    [
        ("8002340123", Service.TOLL_FREE, ""),
        ("8332340123", Service.TOLL_FREE, ""),
        ("8222340123", Service.TOLL_FREE_RESERVED, ""),
        ("8842340123", Service.TOLL_FREE_RESERVED, ""),
        ("9002340123", Service.PREMIUM, ""),
        ("5212340123", Service.PERSONAL, ""),
        ("6002340123", Service.CANADA_NON_GEOGRAPHIC, "CA"),
        ("7002340123", Service.CARRIER, ""),
        ("7102340123", Service.GOVERNMENT, "US"),
        ("2012340123", Service.GEOGRAPHIC, "US"),
        ("4162340123", Service.GEOGRAPHIC, "CA"),
        ("8762340123", Service.GEOGRAPHIC, "JM"),
        ("7872340123", Service.GEOGRAPHIC, "PR"),
        ("2322340123", Service.UNKNOWN, ""),
    ],
)
def test_special_area_codes_are_named(national: str, service: Service, area: str) -> None:
    judgement = judge(national)
    assert (judgement.valid, judgement.service, judgement.area.code) == (True, service, area)


@pytest.mark.parametrize(
    ("national", "said"),
    [
        ("2015551212", "directory assistance"),
        ("2015550100", "fiction"),
        ("2015550199", "fiction"),
        ("2015550200", "no ordinary subscribers"),
        ("2019500000", "Feature Group B"),
        ("2019590000", "testing"),
        ("2019760000", "pay-per-call"),
        ("2012340123", ""),
    ],
)
def test_special_exchange_codes_are_named(national: str, said: str) -> None:
    reason = judge(national).reason
    assert said in reason
    assert bool(said) == bool(reason)


def test_seven_toll_free_codes_are_in_use() -> None:
    assert {800, 888, 877, 866, 855, 844, 833} == TOLL_FREE_NPAS


def test_fictitious_numbers_are_a_hundred_in_each_area_code() -> None:
    assert [n for n in range(2015550000, 2015560000) if is_fictitious(n)] == [*range(2015550100, 2015550200)]
