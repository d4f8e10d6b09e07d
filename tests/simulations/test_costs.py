"""simulations/costs.py: joules and money, link by link."""

from __future__ import annotations

import pytest
from edgecache.simulations import costs
from edgecache.simulations.links import LINKS
from edgecache.simulations.record import Meter
from edgecache.simulations.scenario import Scenario

METER = Meter(encodes=10, lan_sent=1000, lan_received=900, uplink_up=500, uplink_down=200, store_usd=0.25)


def test_each_link_has_its_bytes_joules_and_price() -> None:
    wifi, wan = LINKS["wifi"], LINKS["wan"]
    spent = costs.with_cache(Scenario(device="rpi5", model="vit-b16", link="wifi", uplink="wan"), METER)
    assert spent["joules"]["encoding"] == pytest.approx(10 * 5.5 * 0.43)
    assert spent["joules"]["lan"] == pytest.approx(
        1000 * wifi.joules_per_byte_sent + 900 * wifi.joules_per_byte_received
    )
    sent, received = (
        (wifi.joules_per_byte_sent + wan.joules_per_byte_sent),
        (wifi.joules_per_byte_received + wan.joules_per_byte_received),
    )
    assert spent["joules"]["uplink"] == pytest.approx(500 * sent + 200 * received, rel=1e-5)
    assert spent["price_usd"] == {"lan": 0.0, "uplink": 0.0, "store": 0.25, "all": 0.25}


def test_a_byte_to_the_cloud_is_paid_on_the_devices_link_and_on_the_uplink_and_once_where_they_are_one() -> None:
    price = LINKS["4g"].price_per_byte
    assert price == LINKS["5g"].price_per_byte > 0
    for link, uplink, times in (("4g", "wan", 1), ("4g", "5g", 2), ("5g", "5g", 1), ("lan", "4g", 1)):
        scenario = Scenario(link=link, uplink=uplink)
        assert costs.with_cache(scenario, METER)["price_usd"]["uplink"] == pytest.approx(times * 700 * price)
        assert costs.in_the_cloud(scenario, 1, 500, 200)["price_usd"]["uplink"] == pytest.approx(times * 700 * price)


def test_what_is_spent_between_two_looks_at_the_meter_is_their_difference() -> None:
    assert METER.since(Meter()) == METER
    assert METER.since(METER) == Meter()
