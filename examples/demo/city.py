#!/usr/bin/env python3
"""Makes city.mmdb: where four networks are that IANA keeps for services, so that nobody signs in from them. The
cities are invented.

    python3 examples/demo/city.py examples/demo/city.mmdb     # needs mmdb_writer
"""

import sys

from mmdb_writer import MMDBWriter
from netaddr import IPSet

CITIES = {
    "192.31.196.0/24": ("PT", "Portugal", "Lisbon"),
    "192.52.193.0/24": ("KE", "Kenya", "Nairobi"),
    "192.175.48.0/24": ("JP", "Japan", "Kyoto"),
    "2620:4f:8000::/48": ("UY", "Uruguay", "Montevideo"),
}

writer = MMDBWriter(6, "Demo-City", languages=["en"], ipv4_compatible=True, description="Invented cities")
for network, (code, country, city) in CITIES.items():
    record = {"country": {"iso_code": code, "names": {"en": country}}, "city": {"names": {"en": city}}}
    writer.insert_network(IPSet([network]), record)
writer.to_db_file(sys.argv[1])
