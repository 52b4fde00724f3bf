"""Faults of the services around a run: the Prefect server, and the Postgres behind it."""

from __future__ import annotations

import time

from tests.chaos.arena import SECONDS, Arena
from tests.chaos.fault import Base, Outcome


class PrefectRestarted(Base):
    """The Prefect server ends, at once or in order, and comes back after a while."""

    kind, weight = "prefect-restarted", 0.6

    def apply(self, arena: Arena) -> Outcome:
        server, rng = arena.campaign.services.prefect, arena.round.random()
        child = arena.resume()
        alive = arena.moment(child)
        how = rng.choice((server.kill, server.stop))
        how()
        try:
            time.sleep(rng.uniform(0.0, 3.0))
        finally:
            server.start()
        code = child.wait(SECONDS)
        return Outcome(alive, {arena.run_id: code}, f"{how.__name__}, exit {code}")


class PostgresRestarted(Base):
    """The database of the Prefect server ends, as in a crash or in order, and comes back after a while."""

    kind, weight = "postgres-restarted", 1.5

    def apply(self, arena: Arena) -> Outcome:
        services, rng = arena.campaign.services, arena.round.random()
        child = arena.resume()
        alive = arena.moment(child)
        mode = rng.choice(("immediate", "fast"))
        services.postgres.stop(mode)
        try:
            time.sleep(rng.uniform(0.0, 5.0))
        finally:
            services.postgres.start()
        code = child.wait(SECONDS)
        services.prefect.wait()
        return Outcome(alive, {arena.run_id: code}, f"{mode}, exit {code}")
