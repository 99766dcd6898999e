"""Writer: all that changes the database, done by one thread."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Sequence

from perdure.errors import StoreError
from perdure.logs import fields
from perdure.statestore.contract import ActorId, Commit, CommitResult, Fence, Refused, Taken, TypePartition
from perdure.statestore.sqlite import queries
from perdure.statestore.sqlite.plan import Entry, Memory, Numbers, Plan, rollback
from perdure.statestore.sqlite.reader import READS, lease

logger = logging.getLogger("perdure.statestore")

SWEEPS = queries.load("sweeps.sql")
#: Rows of garbage deleted by one transaction, and the most key sets looked at for them.
SWEEP = {"rows": 500, "sets": 100}
#: Batches after which garbage is swept even if the writer is never idle.
SWEEP_EVERY = 16
#: Actors looked up by one statement.
FIND = 512
#: Bytes written since the last checkpoint, estimated, at which the next one is due; and the same for an idle writer.
CHECKPOINT = 8 * 1024 * 1024
CHECKPOINT_IDLE = 1024 * 1024
#: What a transaction and a commit add to the log beside their values, about.
PER_BATCH, PER_COMMIT = 8192, 2048
#: The log is given this size once, by an idle writer: growing it during commits makes each take twice as long.
WARM = 8 * 1024 * 1024


class Writer:
    """The methods with a connection are jobs of the writer thread."""

    def __init__(self, checkpoint: Callable[[], None], later: Callable[[], None]) -> None:
        self._checkpoint = checkpoint
        self._later = later
        self.memory = Memory(Numbers(0))
        self.garbage = False
        self._batches = 0
        self._warm = False
        #: Bytes in the log that are not in the database yet, about.
        self.logged = 0

    def open(self, connection: sqlite3.Connection) -> None:
        """Reads what the memory holds."""
        settings = dict(connection.execute("SELECT name, value FROM settings"))
        memory = self.memory = Memory(Numbers(settings.get("numbers", 0)))
        memory.types.update(connection.execute("SELECT name, type FROM types"))
        rows = connection.execute(
            "SELECT name, partition, term, epoch, released FROM fences JOIN types USING (type)"
        )
        for name, partition, term, epoch, released in rows:
            memory.fences[(name, partition)] = (Fence(term, epoch), bool(released))
        self.garbage = bool(connection.execute(SWEEPS["has_garbage"].text).fetchone()[0])

    # --- commits -----------------------------------------------------------------------------------------------------

    def commit(self, connection: sqlite3.Connection, batch: Sequence[Commit]) -> list[CommitResult]:
        self._find(connection, batch)
        plan = Plan(self.memory)
        add = plan.add
        results = [add(commit) for commit in batch]
        plan.write(connection)
        self._account(plan.size + PER_BATCH + PER_COMMIT * len(batch))
        self._batches += 1
        self.garbage = self.garbage or bool(plan.rows["put_garbage"])
        if self.garbage and self._batches % SWEEP_EVERY == 0:
            self._later()
        return results

    def _find(self, connection: sqlite3.Connection, batch: Sequence[Commit]) -> None:
        """Fills the memory's entries with those actors of the batch that exist."""
        memory = self.memory
        missing = [c.actor for c in batch if c.actor not in memory.entries and c.actor.type in memory.types]
        if not missing:
            return
        names = {number: name for name, number in memory.types.items()}
        for at in range(0, len(missing), FIND):
            wanted: list[int | str] = []
            for actor in missing[at : at + FIND]:
                wanted += (memory.types[actor.type], actor.id)
            for kind, id, num, keyset, version in READS["find_actors"].read(connection, wanted):
                memory.entries[ActorId(names[kind], id)] = Entry(num, keyset, version)

    # --- partitions --------------------------------------------------------------------------------------------------

    def take(
        self, connection: sqlite3.Connection, held: Sequence[TypePartition], fence: Fence
    ) -> list[Taken | Refused]:
        plan, fences = Plan(self.memory), self.memory.fences
        fresh: dict[tuple[str, int], tuple[Fence, bool]] = {}
        results: list[Taken | Refused] = []
        for name, partition in held:
            stored = fresh.get((name, partition)) or fences.get((name, partition))
            if stored is not None and stored[0] >= fence:
                results.append(Refused(stored[0]))
                continue
            fresh[name, partition] = (Fence(*fence), False)
            plan.rows["put_fences"] += (plan.type(name), partition, fence[0], fence[1], 0)
            results.append(Taken(released=stored is None or stored[1]))
        plan.write(connection)
        fences.update(fresh)
        return results

    def release(self, connection: sqlite3.Connection, held: Sequence[TypePartition], fence: Fence) -> None:
        plan, fences = Plan(self.memory), self.memory.fences
        mine = [one for one in dict.fromkeys(held) if fences.get(one) == (fence, False)]
        for name, partition in mine:
            plan.rows["put_fences"] += (plan.type(name), partition, fence[0], fence[1], 1)
        plan.write(connection)
        fences.update({one: (Fence(*fence), True) for one in mine})

    # --- leases ------------------------------------------------------------------------------------------------------

    def raise_term(self, connection: sqlite3.Connection, name: str, now: int) -> int:
        """The lease's next term, stored."""
        term, value = lease(connection, name)
        term = max(term + 1, now // 1000)
        self._write_lease(connection, name, term, value)
        return term

    def write_lease(
        self, connection: sqlite3.Connection, name: str, mine: Callable[[], int | None], value: bytes
    ) -> None:
        term, _ = lease(connection, name)
        if mine() != term:
            raise StoreError(f"the lease {name!r} is not held under term {mine()}")
        self._write_lease(connection, name, term, value)

    def _write_lease(self, connection: sqlite3.Connection, name: str, term: int, value: bytes | None) -> None:
        plan = Plan(self.memory)
        plan.rows["put_leases"] += (name, term, value)
        plan.write(connection)

    def check(self, connection: sqlite3.Connection) -> None:
        """Writes something."""
        plan = Plan(self.memory)
        plan.rows["put_settings"] += ("checks", self._batches)
        plan.write(connection)

    # --- housekeeping ------------------------------------------------------------------------------------------------

    def idle(self, connection: sqlite3.Connection) -> float | None:
        """Does a piece of what can wait; says when it would do the next."""
        try:
            if not self._warm:
                self._warm = True
                self._grow_log(connection)
            if self.garbage:
                self.sweep(connection)
                return 0.0
        except sqlite3.Error as error:
            # The next commits will say the same to those who can act on it.
            logger.warning("housekeeping failed", extra=fields(reason=str(error)))
            return None
        if self.logged >= CHECKPOINT_IDLE:
            self._start_checkpoint()
        return None

    def sweep(self, connection: sqlite3.Connection) -> None:
        """Deletes a bounded number of garbage rows."""
        connection.execute("BEGIN IMMEDIATE")
        try:
            connection.execute(SWEEPS["sweep_keys"].text, SWEEP)
            connection.execute(SWEEPS["sweep_garbage"].text, {"sets": SWEEP["sets"]})
            (more,) = connection.execute(SWEEPS["has_garbage"].text).fetchone()
            connection.execute("COMMIT")
        except BaseException:
            rollback(connection)
            raise
        self.garbage = bool(more)
        self._account(PER_BATCH)

    def _grow_log(self, connection: sqlite3.Connection) -> None:
        connection.execute("DROP TABLE IF EXISTS filler")
        connection.execute("CREATE TABLE filler (content BLOB)")
        try:
            connection.execute("INSERT INTO filler VALUES (zeroblob(?))", (WARM,))
        finally:
            connection.execute("DROP TABLE filler")
        self._account(WARM)

    def _account(self, size: int) -> None:
        before, self.logged = self.logged, self.logged + size
        if before < CHECKPOINT <= self.logged:
            self._start_checkpoint()

    def _start_checkpoint(self) -> None:
        self.logged = 0
        self._checkpoint()
