"""The registry: tenants, keys, adapters, versions, aliases, audit and usage in one database.

engine = connect("sqlite:////var/lib/loragate/registry.db")
await check_schema(engine)
registry = Registry(engine, reserved_names={"Qwen2.5-3B"})
view = await registry.adapters.resolve("acme", "acme-support")
"""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy.ext.asyncio import AsyncEngine

from adapters.registry.access.keys import Keys
from adapters.registry.access.sessions import Sessions
from adapters.registry.adapters import Adapters
from adapters.registry.aliases import Aliases
from adapters.registry.audit import Audit
from adapters.registry.billing.prices import Prices
from adapters.registry.billing.spending import Spending
from adapters.registry.billing.webhooks import Webhooks
from adapters.registry.database import Database, connect
from adapters.registry.figures.evaluations import Evaluations
from adapters.registry.figures.feedback import FeedbackStore
from adapters.registry.figures.shadow_texts import ShadowTexts
from adapters.registry.figures.shadows import Shadows
from adapters.registry.outages.availability import Availability
from adapters.registry.replicas.answers import Answers
from adapters.registry.replicas.drains import Drains
from adapters.registry.replicas.failures import Failures
from adapters.registry.replicas.leases import LeaseStore
from adapters.registry.replicas.membership import Membership, Replica, new_replica
from adapters.registry.replicas.outcomes import Outcomes
from adapters.registry.replicas.proofs import Proofs
from adapters.registry.replicas.shared_secrets import SharedSecrets
from adapters.registry.replicas.upload_records import UploadRecords
from adapters.registry.replicas.wrong_keys import WrongKeys
from adapters.registry.schema.migration import check_schema, migrate
from adapters.registry.tenants import Tenants
from adapters.registry.usage import UsageStore
from adapters.registry.versions import Versions

__all__ = ["Registry", "check_schema", "connect", "migrate"]


class Registry:
    """All tables over one database engine, which the caller owns and disposes of.

    Args:
        engine: the database.
        reserved_names: public names that no adapter may have.
        grace_s: how long cached data stays valid while the database does not answer (`Availability`).
        replica: this server among those that share the database.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        *,
        reserved_names: Collection[str] = (),
        grace_s: float = 0.0,
        replica: Replica | None = None,
    ) -> None:
        self._database = database = Database(engine)
        self.tenants = Tenants(database)
        self.keys = Keys(database)
        self.sessions = Sessions(database)
        self.adapters = Adapters(database)
        self.versions = Versions(database, reserved_names)
        self.aliases = Aliases(database)
        self.membership = Membership(database, replica or new_replica())
        self.drains = Drains(database, self.membership, self.versions)
        self.proofs = Proofs(database, self.membership)
        self.uploads = UploadRecords(database, self.membership)
        self.wrong_keys = WrongKeys(database, self.membership)
        self.secrets = SharedSecrets(database)
        self.failures = Failures(database, self.membership)
        self.leases = LeaseStore(database, self.membership)
        self.outcomes = Outcomes(database)
        self.answers = Answers(database)
        self.audit = Audit(database)
        self.usage = UsageStore(database)
        self.prices = Prices(database)
        self.spending = Spending(database)
        self.webhooks = Webhooks(database)
        self.feedback = FeedbackStore(database)
        self.evaluations = Evaluations(database)
        self.shadows = Shadows(database)
        self.shadow_texts = ShadowTexts(database)
        self.availability = Availability(lambda: self.audit.revision(probing=True), grace_s=grace_s)
        database.known_away = lambda: self.availability.known_away

    def changes(self, *kinds: str) -> int:
        """Number of changes by this object, by kind: `key`, `tenant`, `adapter`, `version`, `alias`, `price`."""
        return sum(self._database.changes[kind] for kind in kinds)
