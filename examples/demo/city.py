#!/usr/bin/env python3
"""Makes city.mmdb: where four networks are that are reserved for documentation, and so in truth nowhere.

    python3 examples/demo/city.py examples/demo/city.mmdb     # needs mmdb_writer
"""

import sys

from mmdb_writer import MMDBWriter
from netaddr import IPSet

CITIES = {
    "192.0.2.0/24": ("PT", "Portugal", "Lisbon"),
    "198.51.100.0/24": ("KE", "Kenya", "Nairobi"),
    "203.0.113.0/24": ("JP", "Japan", "Kyoto"),
    "2001:db8::/32": ("UY", "Uruguay", "Montevideo"),
}

writer = MMDBWriter(6, "Documentation-City", languages=["en"], ipv4_compatible=True, description="Documentation networks")
for network, (code, country, city) in CITIES.items():
    record = {"country": {"iso_code": code, "names": {"en": country}}, "city": {"names": {"en": city}}}
    writer.insert_network(IPSet([network]), record)
writer.to_db_file(sys.argv[1])
