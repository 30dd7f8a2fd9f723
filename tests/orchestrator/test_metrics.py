"""What a replica tells Prometheus."""

from __future__ import annotations

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from tests.orchestrator.installation import Installation


async def scrape(installation: Installation) -> dict[tuple[str, str], float]:
    """Read all figures by name and labels, with Prometheus' own parser."""
    headers = {"Authorization": f"Bearer {installation.admin_secret}"}
    address = installation.replicas[0].address
    async with aiohttp.ClientSession() as session, session.get(address + "/metrics", headers=headers) as response:
        assert response.status == 200, await response.text()
        assert response.content_type == "text/plain"
        text = await response.text()
    return {
        (sample.name, ",".join(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def test_a_replica_tells_of_its_requests_and_of_the_queue(installation: Installation) -> None:
    await installation.replica()
    before = await scrape(installation)
    assert before["moonyard_jobs", "queued"] == 0
    await installation.push()
    for _ in range(3):
        await installation.submit()
    after = await scrape(installation)
    assert after["moonyard_jobs", "queued"] == 3
    assert after["moonyard_jobs", "running"] == 0
    assert after["moonyard_queue_oldest_seconds", ""] > 0
    assert after["moonyard_http_requests_total", "POST,/v1/jobs,201"] == 3
    assert after["moonyard_http_request_seconds_count", "/v1/jobs"] == 3
    assert after["process_resident_memory_bytes", ""] > 1_000_000


async def test_ids_and_unknown_paths_make_no_series_of_their_own(installation: Installation) -> None:
    await installation.replica()
    address = installation.replicas[0].address
    async with aiohttp.ClientSession() as session:
        for path in ("/v1/jobs/1", "/v1/jobs/2", "/nothing/1", "/nothing/2"):
            async with session.get(address + path) as response:
                assert response.status >= 400
    routes = {
        labels.split(",")[1] for name, labels in await scrape(installation) if name == "moonyard_http_requests_total"
    }
    assert not {route for route in routes if "nothing" in route or route.endswith(("/1", "/2"))}
