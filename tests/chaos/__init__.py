"""Breaks a whole installation, part by part and at random, and then checks every promise from the outside.

    submitters, followers ── proxy ── HAProxy ──┬── replica ── proxy ──┐
                    runners ── proxies ─────────┼── replica ── proxy ──┼── Postgres
                                                └── replica ── proxy ──┘

All parts are processes, as an installation has them, kept running by what stands for a service manager here. A seeded
killer kills, stops and cuts them off; the proxies cut and delay connections, and lose answers whose work is committed.
Meanwhile jobs with a known result are submitted. At the end all is let settle, and Postgres, the API, the container
engine and the process table are asked whether anything was lost, doubled, or left behind.
"""
