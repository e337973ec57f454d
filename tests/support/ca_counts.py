"""What a running CA counts, as its operator socket says it."""

from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from ca_service.cli.channel import get_from_server


def counts(ca: Path, route: str = "") -> dict[str, float]:
    """All samples of /metrics, those of one name together; with `route`, of routes that begin so, and without one."""
    status, body = get_from_server(ca, "/metrics")
    assert status == 200
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(body.decode()):
        for sample in family.samples:
            if sample.labels.get("route", route).startswith(route):
                found[sample.name] = found.get(sample.name, 0.0) + sample.value
    return found
