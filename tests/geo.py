"""Files in MaxMind's format for tests: python geo.py FOLDER. The writer is not ours.

nested.mmdb has MaxMind's schema, flat.mmdb that of ip-location-db, asn.mmdb that of MaxMind's networks, four.mmdb knows
IPv4 alone, other.mmdb is nested.mmdb with another city, and large.mmdb knows every 10.x.0.0/16 moved to 20.x.0.0/16.
"""

import pathlib
import sys

from mmdb_writer import MMDBWriter, MmdbF32
from netaddr import IPSet

folder = pathlib.Path(sys.argv[1])


def nested(city):
    names = lambda name: {"en": name, "de": f"{name} auf Deutsch", "ja": f"{name} 日本"}
    return {
        "city": {"geoname_id": 2694762, "names": names(city)},
        "continent": {"code": "EU", "names": names("Europe")},
        "country": {"geoname_id": 2661886, "is_in_european_union": True, "iso_code": "SE", "names": names("Sweden")},
        "registered_country": {"iso_code": "DE", "names": names("Germany")},
        "location": {"accuracy_radius": 76, "latitude": 58.4167, "longitude": 15.6167, "time_zone": "Europe/Stockholm"},
        "postal": {"code": "582 10"},
        "subdivisions": [{"iso_code": "E", "names": names("Östergötland County")}, {"iso_code": "X", "names": names("More")}],
        "traits": {"isp": "Bredband2", "autonomous_system_number": 29518, "is_anycast": False},
    }


def write(name, networks, version=6):
    writer = MMDBWriter(version, f"Test-{name}", languages=["en"], ipv4_compatible=version == 6, description="for tests")
    for network, record in networks:
        writer.insert_network(IPSet([network]), record)
    path = folder / f"{name}.mmdb"
    writer.to_db_file(str(path.with_suffix(".tmp")))
    path.with_suffix(".tmp").rename(path)


owner = {"registered_country": {"iso_code": "GB", "names": {"en": "United Kingdom"}}}
write("nested", [("89.160.20.112/28", nested("Linköping")), ("2a02:d000::/20", nested("Lund")), ("2.125.160.216/29", owner), ("5.5.5.0/24", {"continent": {"code": "EU"}})])
write("other", [("89.160.20.112/28", nested("Malmö"))])
flat = {"city": "Mountain View", "country_code": "US", "state1": "California", "state2": "", "postcode": "94043", "latitude": MmdbF32(37.4056), "longitude": MmdbF32(-122.0775), "timezone": "America/Los_Angeles"}
write("flat", [("8.8.8.0/24", flat), ("89.160.20.112/28", flat)])
write("asn", [("1.1.1.0/24", {"autonomous_system_number": 13335, "autonomous_system_organization": "Cloudflare"})])
write("four", [("8.8.8.0/24", {"country_code": "US"})], version=4)
write("large", [(f"20.{x}.0.0/16", {"country_code": "US", "city": f"City {x}", "latitude": 37.5, "longitude": -122.25}) for x in range(256)])
